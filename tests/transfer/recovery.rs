//! The data of a service out and in again: every case of contract section 9.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use s3_client::Object;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::run::{all_good, fails, images, import, path, small_root, succeeds};
use crate::support::ims::id;
use crate::support::stand::{Objects, Stand};
use crate::support::tree::{noise, run};

/// What jobs publish beside a manifest that does not list it.
const HISTORY: [&str; 2] = ["changes.json", "provenance.json"];

/// A service with something of everything; the image's id.
pub async fn furnished(stand: &Stand) -> String {
    let root = small_root(stand);
    let image = import(stand, "first", &root).await;
    let set = json!({"metadata": {"operation": "set", "key": "site", "value": "a"}});
    stand.ims.patch(&format!("v3/images/{image}"), set).await;
    for name in HISTORY {
        let file = stand.dir.path().join(name);
        fs::write(&file, format!("{{\"of\": \"{name}\"}}")).unwrap();
        stand.put(&format!("{image}/{name}"), &file).await;
    }
    let other = stand.dir.path().join("small");
    fs::create_dir_all(other.join("bin")).unwrap();
    fs::copy(root.join("bin/busybox"), other.join("bin/sh")).unwrap();
    import(stand, "without boot files", &other).await;
    stand.ims.post("v3/images", json!({"name": "incomplete"})).await;
    stand.ims.add_public_key("ssh-ed25519 AAAA key").await;
    recipe(stand).await;
    image
}

async fn recipe(stand: &Stand) {
    let dir = stand.dir.path().join("recipe");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("config.xml"), "<image/>").unwrap();
    let archive = stand.dir.path().join("recipe.tgz");
    run(Command::new("tar").arg("-C").arg(&dir).arg("-czf").arg(&archive).arg("."));
    let arguments = ["recipe", "import", "--name", "recipe", "--linux-distribution", "sles15"];
    let more = ["--template-dictionary", "A=1", "--require-dkms", "false", path(&archive)];
    succeeds(stand, &[&arguments[..], &more].concat()).await;
}

pub async fn export(stand: &Stand) -> PathBuf {
    let dir = stand.dir.path().join("export");
    succeeds(stand, &["data", "export", path(&dir), "--include-linked-artifacts"]).await;
    dir
}

/// What an import did, by name of the record.
pub async fn import_data(stand: &Stand, dir: &Path, more: &[&str]) -> BTreeMap<String, String> {
    let result = succeeds(stand, &[&["data", "import", path(dir)], more].concat()).await;
    let line = |line: &Value| {
        let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        (text("name"), text("action"))
    };
    result["records"].as_array().unwrap().iter().map(line).collect()
}

/// Names and fields of a collection, without what a new record cannot keep.
async fn fields(stand: &Stand, collection: &str) -> BTreeMap<String, Value> {
    let records = stand.ims.get(&format!("v3/{collection}")).await;
    let comparable = |record: &Value| {
        let mut record = record.clone();
        for field in ["id", "created"] {
            record[field] = Value::Null;
        }
        if let Some(path) = record["link"]["path"].as_str() {
            let name = path.rsplit('/').next().unwrap().to_owned();
            record["link"] = json!(name);
        }
        (record["name"].as_str().unwrap().to_owned(), record)
    };
    records.as_array().unwrap().iter().map(comparable).collect()
}

async fn everything_comes_back_elsewhere(objects: Objects) {
    let (from, to) = (Stand::start(objects).await, Stand::start(objects).await);
    let image = furnished(&from).await;
    let dir = export(&from).await;
    run(Command::new("sha256sum")
        .args(["--quiet", "--strict", "-c", "SHA256SUMS"])
        .current_dir(&dir));
    let done = import_data(&to, &dir, &[]).await;
    assert!(done.values().all(|action| action == "created"), "{done:?}");
    for collection in ["images", "recipes", "public-keys"] {
        assert_eq!(fields(&to, collection).await, fields(&from, collection).await);
    }
    all_good(&to).await;
    let maps = fs::read_dir(to.dir.path()).unwrap().flatten();
    let map = maps.map(|it| it.path()).find(|it| path(it).contains("ims-id-maps-post-import-"));
    let map: Value = serde_json::from_slice(&fs::read(map.unwrap()).unwrap()).unwrap();
    let new = map["id_maps"]["images"][&image].as_str().unwrap();
    assert_eq!(to.ims.get(&format!("v3/images/{new}")).await["metadata"]["site"], "a");
    let old_etag = from.ims.get(&format!("v3/images/{image}")).await["link"]["etag"].clone();
    let new_etag = to.ims.get(&format!("v3/images/{new}")).await["link"]["etag"].clone();
    assert_eq!(map["etag_map"][old_etag.as_str().unwrap()], new_etag);
    assert_history(&to, new).await;
    let got = to.dir.path().join("got");
    succeeds(&to, &["image", "get", new, path(&got), "--include-history"]).await;
    assert!(HISTORY.iter().all(|name| got.join(name).is_file()));
    // What is gone comes back; what is there stays.
    let never = CancellationToken::new();
    to.store
        .delete(&Object::new("boot-images", format!("{new}/changes.json")), &never)
        .await
        .unwrap();
    let other = to.dir.path().join("other");
    fs::write(&other, "another history").unwrap();
    to.put(&format!("{new}/provenance.json"), &other).await;
    import_data(&to, &dir, &[]).await;
    let kept = to.get(&format!("s3://boot-images/{new}/provenance.json")).await;
    assert_eq!(kept, b"another history");
    import_data(&to, &dir, &["--overwrite"]).await;
    assert_history(&to, new).await;
    // Again, also where nothing tells of the first time.
    fs::remove_file(dir.join(".ims-import-journal.json")).unwrap();
    for _ in 0..2 {
        let done = import_data(&to, &dir, &[]).await;
        assert!(done.values().all(|action| action == "present"), "{done:?}");
    }
    assert_eq!(images(&to).await.len(), 3);
}

async fn assert_history(stand: &Stand, image: &str) {
    for name in HISTORY {
        let bytes = stand.get(&format!("s3://boot-images/{image}/{name}")).await;
        assert_eq!(String::from_utf8(bytes).unwrap(), format!("{{\"of\": \"{name}\"}}"));
    }
}

async fn what_is_missing_is_restored_and_what_is_there_stays(objects: Objects) {
    let stand = Stand::start(objects).await;
    let image = furnished(&stand).await;
    let dir = export(&stand).await;
    let never = CancellationToken::new();
    for name in ["kernel", "manifest.json"] {
        let object = Object::new("boot-images", format!("{image}/{name}"));
        stand.store.delete(&object, &never).await.unwrap();
    }
    assert_eq!(import_data(&stand, &dir, &["--dry-run"]).await["first"], "restored");
    let done = import_data(&stand, &dir, &[]).await;
    assert_eq!(done["first"], "restored");
    assert_eq!(done.values().filter(|action| *action == "present").count(), 4, "{done:?}");
    succeeds(&stand, &["image", "verify", &image]).await;

    let other = stand.dir.path().join("other");
    fs::write(&other, "other content").unwrap();
    stand.put(&format!("{image}/initrd"), &other).await;
    let log = fails(&stand, &["data", "import", path(&dir)]).await;
    assert!(log.contains("--overwrite"), "{log}");
    assert_eq!(stand.get(&format!("s3://boot-images/{image}/initrd")).await, b"other content");
    assert_eq!(import_data(&stand, &dir, &["--overwrite"]).await["first"], "restored");
    succeeds(&stand, &["image", "verify", &image]).await;

    // The record is gone, its objects are not: a new one, with objects of its own.
    stand.ims.delete(&format!("images/{image}?cascade=false")).await;
    assert_eq!(import_data(&stand, &dir, &[]).await["first"], "created");
    all_good(&stand).await;
}

async fn bad_exports_fail_record_by_record(objects: Objects) {
    let (from, to) = (Stand::start(objects).await, Stand::start(objects).await);
    let image = furnished(&from).await;
    let dir = export(&from).await;
    let kernel = dir.join(format!("images/{image}/kernel"));
    let whole = fs::read(&kernel).unwrap();
    let mut said = Vec::new();
    for (content, expected) in [(Some(&whole[1..]), "md5"), (None, "kernel")] {
        fs::remove_file(&kernel).unwrap();
        if let Some(content) = content {
            fs::write(&kernel, content).unwrap();
        }
        let log = fails(&to, &["data", "import", path(&dir)]).await;
        assert!(log.contains(expected), "{log}");
        said.push(log);
        fs::write(&kernel, &whole).unwrap();
    }
    // The others are there, and nothing of the one.
    assert_eq!(images(&to).await.len(), 2);
    all_good(&to).await;

    let secret = from.dir.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let document = dir.join("images.json");
    let text = fs::read_to_string(&document).unwrap();
    for bad in ["../secret", path(&secret)] {
        let good = format!("images/{image}/kernel");
        fs::write(&document, text.replace(&good, bad)).unwrap();
        let log = fails(&to, &["data", "import", path(&dir)]).await;
        assert!(log.contains("refused"), "{log}");
    }
    fs::write(&document, &text).unwrap();
    fs::remove_file(&kernel).unwrap();
    std::os::unix::fs::symlink(&secret, &kernel).unwrap();
    fails(&to, &["data", "import", path(&dir)]).await;
    fs::remove_file(&kernel).unwrap();
    fs::write(&kernel, &whole).unwrap();
    assert_eq!(import_data(&to, &dir, &[]).await["first"], "created");

    // The same record twice is one.
    let mut twice: Value = serde_json::from_str(&text).unwrap();
    let records = twice["records"].as_array_mut().unwrap();
    records.push(records[0].clone());
    fs::write(&document, twice.to_string()).unwrap();
    let before = images(&to).await.len();
    let log = fails(&to, &["data", "import", path(&dir)]).await;
    assert!(log.contains("already contains a record with the id"), "{log}");
    assert_eq!(images(&to).await.len(), before);

    fs::write(&document, text.replace("\"1.0\"", "\"9.0\"")).unwrap();
    assert!(fails(&to, &["data", "import", path(&dir)]).await.contains("9.0"));
    fails(&to, &["data", "import", path(from.dir.path())]).await;
}

async fn a_second_export_fetches_what_is_missing_or_damaged(objects: Objects) {
    let stand = Stand::start(objects).await;
    let image = furnished(&stand).await;
    let arguments = ["data", "export", "out", "--include-linked-artifacts"];
    let dry = succeeds(&stand, &[&arguments[..], &["--dry-run"]].concat()).await;
    assert!(!stand.dir.path().join("out").exists());
    let first = succeeds(&stand, &arguments).await;
    assert_eq!((&first["files"], &first["bytes"]), (&dry["files"], &dry["bytes"]));
    assert_eq!(first["files_kept"], 0);
    let file = |name: &str| stand.dir.path().join(format!("out/images/{image}/{name}"));
    fs::remove_file(file("kernel")).unwrap();
    let length = fs::metadata(file("initrd")).unwrap().len() as usize;
    fs::write(file("initrd"), noise(length, 99)).unwrap();
    let second = succeeds(&stand, &arguments).await;
    assert_eq!(second["files_kept"].as_u64(), first["files"].as_u64().map(|files| files - 2));
    run(Command::new("sha256sum")
        .args(["--quiet", "--strict", "-c", "SHA256SUMS"])
        .current_dir(stand.dir.path().join("out")));
    stand
        .store
        .delete(&Object::new("boot-images", format!("{image}/kernel")), &CancellationToken::new())
        .await
        .unwrap();
    let log = fails(&stand, &arguments).await;
    assert!(log.contains("is not in the store"), "{log}");
}

async fn a_stream_carries_all_of_it(objects: Objects) {
    let (from, to) = (Stand::start(objects).await, Stand::start(objects).await);
    furnished(&from).await;
    let mut export = from.command(&["data", "export", "--include-linked-artifacts", "--to", "-"]);
    let mut import = to.command(&["data", "import", "--from", "-"]);
    let done = tokio::task::spawn_blocking(move || {
        let mut export = export.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        import.stdin(export.stdout.take().unwrap()).stdout(Stdio::null()).stderr(Stdio::piped());
        let done = import.spawn().unwrap();
        // It holds the pipe's end open.
        drop(import);
        let done = done.wait_with_output().unwrap();
        assert!(export.wait().unwrap().success());
        done
    });
    let done = done.await.unwrap();
    assert!(done.status.success(), "{}", crate::run::text(&done.stderr));
    for collection in ["images", "recipes", "public-keys"] {
        assert_eq!(fields(&to, collection).await, fields(&from, collection).await);
    }
    all_good(&to).await;
    let records = to.ims.get("v3/images").await;
    let first = records.as_array().unwrap().iter().find(|record| record["name"] == "first");
    assert_history(&to, &id(first.unwrap())).await;

    succeeds(&from, &["data", "export", "--include-linked-artifacts", "--to", "x.tar.zst"]).await;
    let file = from.dir.path().join("x.tar.zst");
    let whole = fs::read(&file).unwrap();
    let cut = from.dir.path().join("cut");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let third = Stand::start(objects).await;
    fails(&third, &["data", "import", "--from", path(&cut)]).await;
    all_good(&third).await;
    succeeds(&third, &["data", "import", "--from", path(&file)]).await;
    assert_eq!(images(&third).await.len(), 3);
    // An archive that anybody made of the directory, whatever its order.
    let dir = self::export(&from).await;
    let plain = from.dir.path().join("plain.tar");
    run(Command::new("tar").arg("-C").arg(from.dir.path()).arg("-cf").arg(&plain).arg("export"));
    succeeds(&third, &["data", "import", "--from", path(&plain)]).await;
    assert_eq!(images(&third).await.len(), 3, "{}", dir.display());
}

async fn the_trash_goes_along_and_gives_ids_back(objects: Objects) {
    let (from, to) = (Stand::start(objects).await, Stand::start(objects).await);
    let image = furnished(&from).await;
    let live = export(&from).await;
    from.ims.delete(&format!("v3/images/{image}")).await;
    let arguments = ["data", "export", "trash", "--include-linked-artifacts", "--include-deleted"];
    succeeds(&from, &arguments).await;
    let dir = from.dir.path().join("trash");
    let done = import_data(&to, &dir, &["--include-deleted"]).await;
    assert_eq!(done["first"], "created");
    let deleted = to.ims.get("v3/deleted/images").await;
    assert_eq!(deleted[0]["name"], "first");
    let done = import_data(&to, &dir, &["--include-deleted"]).await;
    assert!(done.values().all(|action| action == "present"), "{done:?}");
    let new = id(&deleted[0]);
    to.ims.patch(&format!("v3/deleted/images/{new}"), json!({"operation": "undelete"})).await;
    all_good(&to).await;
    assert_history(&to, &new).await;

    // In the service it came from, the record is still in the trash.
    let done = import_data(&from, &live, &["--keep-ids"]).await;
    assert_eq!(done["first"], "undeleted");
    succeeds(&from, &["image", "verify", &image]).await;
    let third = Stand::start(objects).await;
    let log = fails(&third, &["data", "import", path(&live), "--keep-ids"]).await;
    assert!(log.contains("IMS assigns ids itself"), "{log}");
    assert_eq!(images(&third).await, Vec::<String>::new());
}

crate::on_both_stores! {
    everything_comes_back_elsewhere
    what_is_missing_is_restored_and_what_is_there_stays
    bad_exports_fail_record_by_record
    a_second_export_fetches_what_is_missing_or_damaged
    a_stream_carries_all_of_it
    the_trash_goes_along_and_gives_ids_back
}
