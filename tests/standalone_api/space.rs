//! Standalone on a disk that becomes full, and has room again.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use s3_client::Object;
use serde_json::json;

use crate::sdk::{client, status};
use crate::support::{Standalone, token};

/// A small file system of its own.
pub struct Small(tempfile::TempDir);

impl Small {
    pub fn new(mib: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={mib}m");
        nix::mount::mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        )
        .unwrap();
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no byte.
    pub fn fill(&self) {
        let mut ballast = File::create(self.path().join("ballast")).unwrap();
        let mut size = 1 << 20;
        while size > 0 {
            if ballast.write_all(&vec![1; size]).is_err() {
                size /= 2;
            }
        }
    }

    pub fn make_room(&self) {
        std::fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

async fn is_ready(standalone: &Standalone) -> bool {
    // Answers hold for two seconds.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    standalone.call("GET", "/healthz/ready", None).await.0 == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_507_loses_nothing_and_is_forgotten_when_there_is_room() {
    let disk = Small::new(24);
    let standalone = Standalone::start(&disk.path().join("data")).await;
    let mut names = Vec::new();
    let image = standalone.image().await;
    assert!(is_ready(&standalone).await);
    for round in 0..2 {
        disk.fill();
        let problem = loop {
            let name = format!("image {} {round}", names.len());
            let body = json!({ "name": name, "metadata": { "pad": "x".repeat(60_000) } });
            match standalone.call("POST", "/v3/images", Some(body)).await {
                (201, _) => names.push(name),
                (507, problem) => break problem,
                (503, _) => {}
                other => panic!("{other:?}"),
            }
        };
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("no space left on") && detail.contains("/data"), "{detail}");
        assert_eq!(problem["title"], "Insufficient Storage");
        assert!(!is_ready(&standalone).await);

        // The index alone, and a body.
        let s3 = client(&standalone);
        let refused = loop {
            let begun =
                s3.create_multipart_upload().bucket("ims").key("k".repeat(1000)).send().await;
            match begun {
                Ok(_) => {}
                Err(error) => break Err::<(), _>(error),
            }
        };
        assert_eq!(status(refused), 507);
        let began = Instant::now();
        let object = Object::new("ims", "large");
        let bytes = vec![7; 4 << 20];
        let refused =
            standalone.store.put_bytes(&object, &bytes, &Default::default(), &token()).await;
        let error = refused.unwrap_err();
        assert!(error.is_out_of_space() && !error.is_transient());
        let text = error.to_string();
        assert!(text.contains("the store has no space left") && text.contains("507"), "{text}");
        assert!(began.elapsed() < Duration::from_secs(10), "it is not tried for minutes");
        let left = std::fs::read_dir(disk.path().join("data/s3/blobs")).unwrap();
        let drafts = left.filter(|it| {
            it.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "draft")
        });
        assert_eq!(drafts.count(), 0);

        // What is there can be read meanwhile.
        let found = standalone.get("/v3/images").await.as_array().unwrap().len();
        assert_eq!(found, names.len() + 1);
        assert_eq!(standalone.read("boot-images", &format!("{image}/rootfs")).await, b"rootfs");

        disk.make_room();
        names.push(format!("after {round}"));
        standalone.post("/v3/images", json!({ "name": format!("after {round}") })).await;
        standalone.put("ims", &format!("after {round}"), b"room").await;
        assert!(is_ready(&standalone).await);
    }
    standalone.stop().await;
    let standalone = Standalone::start(&disk.path().join("data")).await;
    let found = standalone.get("/v3/images").await;
    for name in names {
        assert!(found.as_array().unwrap().iter().any(|image| image["name"] == *name), "{name}");
    }
    assert_eq!(standalone.keys("ims").await, ["after 0", "after 1"]);
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_starts_and_reads_on_a_full_disk() {
    let disk = Small::new(24);
    let standalone = Standalone::start(&disk.path().join("data")).await;
    let image = standalone.image().await;
    standalone.stop().await;
    disk.fill();
    let standalone = Standalone::start(&disk.path().join("data")).await;
    assert_eq!(standalone.get(&format!("/v3/images/{image}")).await["name"], "img");
    assert_eq!(standalone.read("boot-images", &format!("{image}/rootfs")).await, b"rootfs");
    disk.make_room();
    standalone.image().await;
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_start_for_want_of_room_becomes_an_error_when_there_is_room() {
    let disk = Small::new(24);
    let standalone = Standalone::start(&disk.path().join("data")).await;
    let image = standalone.image().await;
    let key = json!({ "name": "k", "public_key": "ssh-ed25519 AAAA test" });
    let key = standalone.post("/v3/public-keys", key).await;
    disk.fill();
    let body = json!({
        "job_type": "customize", "artifact_id": image, "public_key_id": key,
        "image_root_archive_name": "result",
    });
    let (status, answer) = standalone.call("POST", "/v3/jobs", Some(body)).await;
    assert!(status == 201 || status == 507, "{status} {answer}");
    disk.make_room();
    if status == 201 {
        standalone.wait_for(answer["id"].as_str().unwrap(), "error").await;
    }
    standalone.stop().await;
}
