//! From `POST jobs` to a registered image.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lab::{Recipe, Repository, ca};
use crate::support::stand::{Objects, Stand};
use crate::support::{SOON, eventually, lab, tree};

const CREATED: [&str; 4] =
    ["fetching_recipe", "waiting_for_repos", "building_image", "packaging_artifacts"];

async fn stand() -> Stand {
    let path = Path::new(&lab("IMS_LAB_KIWI")).join("ca/certificate_authority.crt");
    let path = path.display().to_string();
    Stand::start_with(Objects::Embedded, vec![("CA_CERT", path)]).await
}

/// The bytes of an artifact of the job's image.
async fn artifact(stand: &Stand, record: &Value, name: &str) -> Vec<u8> {
    let image = record["resultant_image_id"].as_str().unwrap();
    let link = stand.ims.get(&format!("v3/images/{image}")).await["link"].clone();
    let manifest = stand.get(link["path"].as_str().unwrap()).await;
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let mut paths = manifest["artifacts"].as_array().unwrap().iter();
    let paths = paths.find_map(|artifact| {
        let path = artifact["link"]["path"].as_str().unwrap();
        path.ends_with(&format!("/{name}")).then(|| path.to_owned())
    });
    stand.get(&paths.unwrap_or_else(|| panic!("no {name} in {manifest}"))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_becomes_a_registered_image() {
    let stand = stand().await;
    let repository = Repository::serve().await;
    let recipe = stand.recipe(&Recipe::new().archive(), &[("repository", &repository.url)]).await;
    let job = stand.create(&recipe, false).await;
    let record = job.reaches("success").await;
    let log = job.log();
    for status in CREATED {
        assert!(log.contains(status), "{status} is not in {log}");
    }
    assert_eq!(repository.seen()[0], "/repodata/repomd.xml", "asked whether it is there");

    let rootfs = stand.dir.path().join("rootfs");
    fs::write(&rootfs, artifact(&stand, &record, "rootfs").await).unwrap();
    let root = stand.dir.path().join("root");
    tree::unsquash(&rootfs, &root);
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    assert_eq!(read("usr/share/pki/trust/anchors/cray_certificate_authority.crt"), ca());
    assert_eq!(read("etc/ssl/ca-bundle.pem"), ca(), "the package's script ran");
    assert_eq!(read("etc/cray/ca/certificate_authority.crt"), ca());
    assert_eq!(read("etc/motd"), "built by the lab\n", "from the recipe's overlay");
    assert_eq!(read("etc/lab-configured"), "configured\n", "by the recipe's script");
    assert_kiwis_directory_is_closed(&root);
    for name in ["vmlinuz", "initrd"] {
        let key = if name == "vmlinuz" { "kernel" } else { name };
        let published = artifact(&stand, &record, key).await;
        assert_eq!(published, fs::read(root.join("boot").join(name)).unwrap(), "{name}");
        assert!(published.len() > 100_000, "{name}");
    }
    assert!(!root.join("proc/self").exists() && !root.join("dev/null").exists());
}

fn assert_kiwis_directory_is_closed(root: &Path) {
    for (name, mode) in [("", 0o700), ("config.xml", 0o600), ("config.sh", 0o700)] {
        let meta = root.join("image").join(name).metadata().unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (mode, 0), "/image/{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_at_the_same_time_do_not_meet() {
    let stand = stand().await;
    let repository = Repository::serve().await;
    let recipe = Recipe::new();
    let recipe = stand.recipe(&recipe.archive(), &[("repository", &repository.url)]).await;
    let jobs = [stand.create(&recipe, false).await, stand.create(&recipe, false).await];
    let mut images = Vec::new();
    for job in &jobs {
        images.push(job.reaches("success").await["resultant_image_id"].clone());
    }
    assert_ne!(images[0], images[1]);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(stand.data().to_str().unwrap()), "{mounts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_build_can_be_looked_at_by_ssh_and_fails_then() {
    let stand = stand().await;
    let repository = Repository::serve().await;
    let recipe = Recipe::new().script("echo the reason >&2; exit 7");
    let recipe = stand.recipe(&recipe.archive(), &[("repository", &repository.url)]).await;
    let job = stand.create(&recipe, true).await;
    job.reaches("waiting_on_user").await;
    let look = "ls /mnt/image; cat /mnt/image/build/image-root/etc/motd; echo $IMS_JOB_ID";
    let seen = stand.key.exec(job.port, look);
    for part in ["build_failed", "kiwi.log", "built by the lab", &job.id] {
        assert!(seen.contains(part), "{part} is not in {seen}");
    }
    // Even this does not make an image of it.
    stand.key.exec(job.port, "touch /mnt/image/complete");
    let record = job.reaches("error").await;
    assert_eq!(record["resultant_image_id"], Value::Null);
    assert!(job.log().contains("KiwiScriptFailed: config.sh failed: the reason"), "{}", job.log());
    assert_eq!(stand.ims.get("v3/images").await.as_array().unwrap().len(), 0);
    // The agent itself ends after its last status.
    eventually("the end of the job's processes", SOON, async || {
        let left = Command::new("pgrep").args(["-f", &job.id]).output().unwrap();
        left.stdout.is_empty().then_some(())
    })
    .await;
}
