//! Jobs of standalone through its crashes and its ends: the user's work goes on where it was.

#![allow(clippy::print_stderr, reason = "what a failed test is known by")]

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::stand::{Objects, Stand};
use support::{SOON, eventually, tree};

/// How long the service may be away: a busy machine and a debug build.
const AWAY: Duration = Duration::from_secs(10);

async fn reaches(stand: &Stand, job: &str, status: &str) -> Value {
    eventually(status, SOON * 4, async || {
        let record = stand.ims.job(job).await;
        let found = record["status"].as_str().unwrap().to_owned();
        let ended = found != status && matches!(found.as_str(), "success" | "error");
        let log = || std::fs::read_to_string(stand.data().join("jobs").join(job).join("log"));
        assert!(!ended, "the job is {found} and not {status}:\n{}", log().unwrap_or_default());
        (found == status).then_some(record)
    })
    .await
}

/// A command in the job's session, as soon as it answers; where that is stands in the record.
async fn exec(stand: &Stand, job: &str, command: &str) -> String {
    eventually("the session answers", SOON, async || {
        let record = stand.ims.job(job).await;
        let info = &record["ssh_containers"][0]["connection_info"]["customer_access"];
        let port = u16::try_from(info["port"].as_u64().unwrap()).unwrap();
        let output = stand.key.try_exec(port, command);
        if !output.status.success() {
            eprintln!("{command}: {}", String::from_utf8_lossy(&output.stderr));
        }
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    })
    .await
}

async fn import(stand: &Stand) -> String {
    let root = stand.dir.path().join("root");
    tree::make_small_root(&root);
    let image = stand.dir.path().join("base.sqsh");
    tree::squash(&root, &image);
    stand.import("base", &image).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_work_goes_on_after_a_crash_and_an_end_of_standalone() {
    for jail in [true, false] {
        let mut stand = Stand::start(Objects::Embedded).await;
        let image = import(&stand).await;
        let job = stand.customize(&image, jail).await.id.clone();
        let etc = if jail { "/etc" } else { "/mnt/image/image-root/etc" };
        reaches(&stand, &job, "waiting_on_user").await;
        exec(&stand, &job, &format!("echo one > {etc}/work")).await;

        stand.kill().await;
        let began = Instant::now();
        stand.restart().await;
        assert!(began.elapsed() < AWAY, "{:?}", began.elapsed());
        let record = stand.ims.job(&job).await;
        assert!(!["error", "success"].contains(&record["status"].as_str().unwrap()), "{record}");
        assert_eq!(exec(&stand, &job, &format!("cat {etc}/work")).await, "one\n");
        exec(&stand, &job, &format!("echo two >> {etc}/work")).await;
        reaches(&stand, &job, "waiting_on_user").await;

        // As a reboot does.
        stand.restart().await;
        assert_eq!(exec(&stand, &job, &format!("cat {etc}/work")).await, "one\ntwo\n");
        reaches(&stand, &job, "waiting_on_user").await;

        // A user who is done while nobody is there.
        stand.kill().await;
        let signal = if jail { "image-root/tmp/complete" } else { "complete" };
        let mnt = stand.data().join("jobs").join(&job).join("mnt");
        let upper = mnt.join(".ims-job-agent/upper/tmp");
        if jail && upper.parent().unwrap().exists() {
            std::fs::create_dir_all(&upper).unwrap();
            std::fs::write(upper.join("complete"), "").unwrap();
        } else {
            std::fs::write(mnt.join(signal), "").unwrap();
        }
        stand.restart().await;
        let record = reaches(&stand, &job, "success").await;
        let result = record["resultant_image_id"].as_str().unwrap();
        let sqsh = stand.dir.path().join("result.sqsh");
        let path = format!("s3://boot-images/{result}/rootfs");
        std::fs::write(&sqsh, stand.get(&path).await).unwrap();
        let root = stand.dir.path().join("result");
        tree::unsquash(&sqsh, &root);
        assert_eq!(std::fs::read_to_string(root.join("etc/work")).unwrap(), "one\ntwo\n");
        assert_eq!(stand.ims.get("v3/images").await.as_array().unwrap().len(), 2);
        assert!(stand.store.unfinished_uploads("boot-images", "").await.unwrap().is_empty());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&job), "{mounts}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_time_of_a_job_ends_in_one_image() {
    let mut stand = Stand::start(Objects::Embedded).await;
    let image = import(&stand).await;
    let job = stand.customize(&image, true).await.id.clone();
    // While it fetches and opens.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..300))).await;
        stand.kill().await;
        stand.restart().await;
    }
    reaches(&stand, &job, "waiting_on_user").await;
    exec(&stand, &job, "echo work > /etc/work; touch /tmp/complete").await;
    // While it packs and publishes.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..400))).await;
        stand.kill().await;
        stand.restart().await;
    }
    reaches(&stand, &job, "success").await;
    let images = stand.ims.get("v3/images").await;
    let linked = images.as_array().unwrap().iter().filter(|image| !image["link"].is_null()).count();
    assert_eq!(linked, 2, "{images}");
}
