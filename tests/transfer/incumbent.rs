//! The layout of the incumbent's script, both ways: what it writes is imported, and what is exported is
//! read by its rules (contract section 9).

use std::fs;
use std::path::Path;

use md5::{Digest, Md5};
use serde_json::{Value, json};

use crate::recovery::{export, furnished, import_data};
use crate::run::{all_good, images};
use crate::support::stand::{Objects, Stand};
use crate::support::tree::noise;

const IMAGE: &str = "0f1acea4-2bf1-4931-ac19-ce3c484af540";
const RECIPE: &str = "1dd47f2f-aa37-4f17-9e9c-4e17a3675a92";

fn md5(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

/// An export as the script writes it: no arch, no metadata, artifacts below `images/ID` by the last part
/// of their keys.
fn fixture(dir: &Path) {
    fs::create_dir_all(dir.join(format!("images/{IMAGE}"))).unwrap();
    fs::create_dir_all(dir.join(format!("recipes/{RECIPE}"))).unwrap();
    let mut artifacts = Vec::new();
    let mut linked = Vec::new();
    for (seed, (name, kind)) in
        [("rootfs", "rootfs.squashfs"), ("kernel", "kernel")].iter().enumerate()
    {
        let bytes = noise(9_000_000 / (1 + 8 * seed), seed as u64);
        fs::write(dir.join(format!("images/{IMAGE}/{name}")), &bytes).unwrap();
        let kind = format!("application/vnd.cray.image.{kind}");
        artifacts.push(json!({
            "md5": md5(&bytes),
            "type": kind,
            "link": {
                "etag": format!("f99dcad6c55a52904a8fee283b0dad2{seed}-2"),
                "path": format!("s3://boot-images/{IMAGE}/{name}"),
                "type": "s3",
            },
        }));
        let path = format!("images/{IMAGE}/{name}");
        linked.push(json!({"md5": md5(&bytes), "type": kind, "path": path}));
    }
    let manifest =
        json!({"version": "1.0", "created": "2021-04-01 21:24:23.161422", "artifacts": artifacts});
    fs::write(dir.join(format!("images/{IMAGE}/manifest.json")), manifest.to_string()).unwrap();
    let archive = noise(11_799, 5);
    fs::write(dir.join(format!("recipes/{RECIPE}/recipe.tar.gz")), &archive).unwrap();
    let image = json!({
        "created": "2021-04-28T20:48:44.007816+00:00",
        "id": IMAGE,
        "link": {
            "etag": "393ac6e2c56c56cf96398d7a31b87445",
            "path": format!("s3://boot-images/{IMAGE}/manifest.json"),
            "type": "s3",
        },
        "name": "barebones",
        "linked_artifacts": {
            "manifest_json": format!("images/{IMAGE}/manifest.json"),
            "image_artifacts": linked,
        },
    });
    let recipe = json!({
        "created": "2021-03-29T15:22:50.039151+00:00",
        "id": RECIPE,
        "link": {
            "etag": md5(&archive),
            "path": format!("s3://ims/recipes/{RECIPE}/recipe.tar.gz"),
            "type": "s3",
        },
        "linux_distribution": "sles15",
        "name": "barebones recipe",
        "recipe_type": "kiwi-ng",
        "linked_artifacts": {"recipe_archive": format!("recipes/{RECIPE}/recipe.tar.gz")},
    });
    for (name, record) in [("images.json", image), ("recipes.json", recipe)] {
        let timestamp = "2024-05-06 07:08:09.123456+00:00";
        let document = json!({"timestamp": timestamp, "version": "1.0", "records": [record]});
        fs::write(dir.join(name), document.to_string()).unwrap();
    }
}

async fn what_the_script_has_written_is_imported(objects: Objects) {
    let stand = Stand::start(objects).await;
    let dir = stand.dir.path().join("ims-import-export-data");
    fixture(&dir);
    let done = import_data(&stand, &dir, &[]).await;
    assert_eq!(
        (done["barebones"].as_str(), done["barebones recipe"].as_str()),
        ("created", "created")
    );
    let id = images(&stand).await.remove(0);
    let link = stand.ims.get(&format!("v3/images/{id}")).await["link"].clone();
    assert_eq!(link["path"], format!("s3://boot-images/{id}/manifest.json"));
    let manifest: Value =
        serde_json::from_slice(&stand.get(link["path"].as_str().unwrap()).await).unwrap();
    assert_eq!(manifest["created"], "2021-04-01 21:24:23.161422");
    assert_eq!(manifest["artifacts"][0]["link"]["path"], format!("s3://boot-images/{id}/rootfs"));
    all_good(&stand).await;
    let recipes = stand.ims.get("v3/recipes").await;
    let recipe = recipes[0]["id"].as_str().unwrap();
    let path = format!("s3://ims/recipes/{recipe}/recipe.tar.gz");
    assert_eq!(recipes[0]["link"]["path"], path);
    let done = import_data(&stand, &dir, &[]).await;
    assert!(done.values().all(|action| action == "present"), "{done:?}");
}

/// What the script asks of every record: a link that is a map, and its files by the last part of their
/// paths in the directory of the record's id.
async fn what_is_exported_is_what_the_script_reads(objects: Objects) {
    let stand = Stand::start(objects).await;
    furnished(&stand).await;
    let dir = export(&stand).await;
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    for (document, directory) in [("recipes.json", "recipes"), ("images.json", "images")] {
        let document = read(&dir.join(document));
        assert_eq!(document["version"], "1.0");
        assert!(document["timestamp"].is_string());
        for record in document["records"].as_array().unwrap() {
            let link = &record["link"];
            let (path, kind) = (link["path"].as_str().unwrap(), link["type"].as_str().unwrap());
            assert!(link["etag"].is_string(), "{record}");
            if path.is_empty() && kind.is_empty() {
                continue;
            }
            let own = dir.join(directory).join(record["id"].as_str().unwrap());
            let file = |path: &str| own.join(path.rsplit('/').next().unwrap());
            assert!(file(path).is_file(), "{record}");
            if directory == "recipes" {
                continue;
            }
            for artifact in read(&file(path))["artifacts"].as_array().unwrap() {
                let link = &artifact["link"];
                assert!(link["etag"].is_string() && artifact["md5"].is_string(), "{artifact}");
                assert!(file(link["path"].as_str().unwrap()).is_file(), "{artifact}");
            }
        }
    }
}

crate::on_both_stores! {
    what_the_script_has_written_is_imported
    what_is_exported_is_what_the_script_reads
}
