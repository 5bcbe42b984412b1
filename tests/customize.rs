//! The main job from end to end, as its users do it: a standalone server, a job, real clients, and
//! the resulting image compared with the expected tree. On the embedded store and on real Ceph.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use md5::{Digest, Md5};
use serde_json::Value;
use support::stand::{Objects, Stand};
use support::tree::{self, Kind, Tree};

/// Makes the small root, keeps it as the expectation, and registers it as an image.
async fn small_image(stand: &Stand) -> (String, PathBuf) {
    let root = stand.dir.path().join("root");
    tree::make_small_root(&root);
    let image = stand.dir.path().join("base.sqsh");
    tree::squash(&root, &image);
    (stand.import("base", &image).await, root)
}

/// The artifacts of a finished job by the last part of their type, each checked: md5 of the bytes,
/// etag against the store, metadata.
async fn artifacts(stand: &Stand, record: &Value) -> Vec<(String, PathBuf)> {
    let image = record["resultant_image_id"].as_str().unwrap();
    let link = stand.ims.get(&format!("v3/images/{image}")).await["link"].clone();
    let manifest = stand.get(link["path"].as_str().unwrap()).await;
    assert_eq!(link["etag"], hex::encode(Md5::digest(&manifest)), "a manifest is a single put");
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["version"], "1.0");
    let mut found = Vec::new();
    for artifact in manifest["artifacts"].as_array().unwrap() {
        let path = artifact["link"]["path"].as_str().unwrap();
        let bytes = stand.get(path).await;
        assert_eq!(artifact["md5"], hex::encode(Md5::digest(&bytes)), "{path}");
        let head = stand.head(path).await;
        assert_eq!(artifact["link"]["etag"], head.etag, "{path}");
        assert_eq!(head.metadata["md5sum"], artifact["md5"], "{path}");
        assert_eq!(head.metadata["x-shasta-ims-image-id"], image, "{path}");
        assert_eq!(head.metadata["x-shasta-ims-image-name"], "customized", "{path}");
        let name = path.rsplit('/').next().unwrap().to_owned();
        let file = stand.dir.path().join(format!("{image}-{name}"));
        std::fs::write(&file, bytes).unwrap();
        found.push((name, file));
    }
    found
}

fn unpacked(artifacts: &[(String, PathBuf)], dir: &Path) -> Tree {
    let (_, rootfs) = artifacts.iter().find(|(name, _)| name == "rootfs").unwrap();
    tree::unsquash(rootfs, dir);
    tree::read(dir)
}

/// What the session changes, made on the kept root as well.
fn expect_changes(root: &Path, change: &str) {
    tree::run(Command::new("sh").args(["-e", "-c", change]).current_dir(root));
}

/// Compares all but the times of what the change touched.
fn assert_result(mut found: Tree, mut expected: Tree, touched: &[&str]) {
    for path in touched {
        let path = Path::new(".").join(path);
        for tree in [&mut found, &mut expected] {
            if let Some(entry) = tree.get_mut(&path) {
                entry.mtime = 0;
            }
        }
    }
    tree::assert_same(&found, &expected);
}

const CHANGE: &str = "echo changed > etc/motd; rm usr/lib/empty; mkdir opt; ln -s /etc/motd opt/link; \
                      chmod 0600 usr/lib/setuid; echo more >> usr/lib/hard-a; mv usr/lib/caps usr/moved";
const TOUCHED: [&str; 9] = [
    ".",
    "etc",
    "etc/motd",
    "usr",
    "usr/lib",
    "opt",
    "opt/link",
    "usr/lib/hard-a",
    "usr/lib/hard-b",
];

async fn jailed(objects: Objects) {
    let stand = Stand::start(objects).await;
    let (image, root) = small_image(&stand).await;
    let job = stand.customize(&image, true).await;
    job.reaches("waiting_on_user").await;

    let vars = stand.key.exec(job.port, "echo $IMS_JOB_ID $IMS_ARCH $IMS_DKMS_ENABLED; pwd; id -u");
    // The job asks for DKMS, which is IMS's default; this server was not started with --allow-dkms.
    assert_eq!(vars, format!("{} x86_64 False\n/root\n0\n", job.id));
    let change = format!("cd / && {CHANGE}");
    stand.key.exec(job.port, &change);
    stand.key.exec(job.port, "touch /tmp/complete");
    let record = job.reaches("success").await;

    expect_changes(&root, CHANGE);
    let artifacts = artifacts(&stand, &record).await;
    let names: Vec<_> = artifacts.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["rootfs", "kernel", "initrd", "boot_parameters"]);
    let kernel = std::fs::read(&artifacts[1].1).unwrap();
    assert_eq!(kernel, std::fs::read(root.join("boot/vmlinuz-6.1.0")).unwrap());
    let found = unpacked(&artifacts, &stand.dir.path().join("result"));
    assert_result(found, tree::read(&root), &TOUCHED);
    assert_nothing_left(&stand, &job.id);
}

/// No mount of the job's is visible to this process, and no process of it runs.
fn assert_nothing_left(stand: &Stand, job: &str) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let data = stand.data();
    assert!(!mounts.contains(data.to_str().unwrap()), "{mounts}");
    let left = Command::new("pgrep").args(["-f", job]).output().unwrap();
    assert!(left.stdout.is_empty(), "{}", String::from_utf8_lossy(&left.stdout));
}

async fn not_jailed_with_scp_and_sftp(objects: Objects) {
    let stand = Stand::start(objects).await;
    let (image, root) = small_image(&stand).await;
    let job = stand.customize(&image, false).await;
    job.reaches("waiting_on_user").await;

    let local = stand.dir.path().join("upload");
    std::fs::write(&local, tree::noise(3_000_000, 7)).unwrap();
    let remote = "/mnt/image/image-root/etc";
    for (mode, name) in [("-O", "by-scp-legacy"), ("-s", "by-scp-sftp")] {
        let mut scp = Command::new("scp");
        scp.arg(mode).args(stand.key.options()).args(["-P", &job.port.to_string()]);
        tree::run(scp.arg(&local).arg(format!("root@127.0.0.1:{remote}/{name}")));
    }
    let batch = stand.dir.path().join("batch");
    std::fs::write(&batch, format!("put {} {remote}/by-sftp\n", local.display())).unwrap();
    let mut sftp = Command::new("sftp");
    sftp.args(["-b"]).arg(&batch).args(stand.key.options()).args(["-P", &job.port.to_string()]);
    tree::run(sftp.arg("root@127.0.0.1"));

    stand.key.exec(job.port, "touch /mnt/image/complete");
    let record = job.reaches("success").await;
    let artifacts = artifacts(&stand, &record).await;
    let found = unpacked(&artifacts, &stand.dir.path().join("result"));
    let mut expected = tree::read(&root);
    for name in ["by-scp-legacy", "by-scp-sftp", "by-sftp"] {
        let path = Path::new("./etc").join(name);
        let entry = &found[&path];
        assert!(
            matches!(&entry.kind, Kind::File { content } if *content == tree::noise(3_000_000, 7))
        );
        expected.insert(path, entry.clone());
    }
    assert_result(found, expected, &["etc"]);
}

async fn failed_wins_over_complete_and_leaves_no_image(objects: Objects) {
    let stand = Stand::start(objects).await;
    let (image, _) = small_image(&stand).await;
    let job = stand.customize(&image, true).await;
    job.reaches("waiting_on_user").await;
    stand.key.exec(job.port, "touch /tmp/failed /tmp/complete");
    let record = job.reaches("error").await;
    assert_eq!(record["resultant_image_id"], Value::Null);
    assert_eq!(stand.ims.get("v3/images").await.as_array().unwrap().len(), 1, "only the base");
    assert!(job.log().contains("the user gave up"), "{}", job.log());
}

/// The same suite on every kind of store.
macro_rules! on {
    ($store:ident: $objects:expr) => {
        mod $store {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn jailed() {
                super::jailed($objects).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn not_jailed_with_scp_and_sftp() {
                super::not_jailed_with_scp_and_sftp($objects).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn failed_wins_over_complete_and_leaves_no_image() {
                super::failed_wins_over_complete_and_leaves_no_image($objects).await;
            }
        }
    };
}

on!(embedded: Objects::Embedded);
on!(ceph: Objects::Ceph);
