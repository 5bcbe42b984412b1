//! Wrong input: what is fetched, what is in the image, what the user says.

use std::fs::{self, OpenOptions};
use std::process::Command;

use crate::pod::{JOB, Pod};
use crate::support::proxy::{ALWAYS, Fault};
use crate::support::{agent, tree};

const ENDED: [&str; 2] = ["fetching_image", "error"];

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_md5_ends_the_job() {
    let mut pod = Pod::start().await;
    pod.vars.insert("DOWNLOAD_MD5SUM", "0".repeat(32));
    pod.run().ends(1, &ENDED, &["cannot fetch the image", "md5"]).await;
    pod.assert_no_image().await;
    let image = pod.parent.join(".ims-job-agent/rootfs.sqsh");
    assert!(!image.exists(), "what is not verified is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_object_is_no_image() {
    let mut pod = Pod::start().await;
    let base = pod.stand.dir.path().join("base.sqsh");
    let size = fs::metadata(&base).unwrap().len();
    OpenOptions::new().write(true).open(&base).unwrap().set_len(size / 2).unwrap();
    let keys = pod.stand.keys("").await;
    let rootfs = keys.iter().find(|key| key.ends_with("/rootfs")).unwrap();
    pod.stand.put(rootfs, &base).await;

    pod.run().ends(1, &ENDED, &["md5"]).await;
    pod.renew_job();
    pod.vars.insert("DOWNLOAD_MD5SUM", String::new());
    pod.run().ends(1, &ENDED, &["cannot open the image root", "is truncated"]).await;
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_gone_ends_the_job() {
    let pod = Pod::start().await;
    for key in pod.stand.keys("").await {
        let object = s3_client::Object::new("boot-images", key);
        pod.stand.store.delete(&object, &Default::default()).await.unwrap();
    }
    pod.run().ends(1, &ENDED, &["cannot fetch the image", "404"]).await;
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_kernel_nothing_is_published_and_the_tree_is_kept() {
    let pod = Pod::with_image(|root| fs::remove_file(root.join("boot/vmlinuz")).unwrap()).await;
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    assert!(agent.process.log().contains("NO kernel /boot/vmlinuz"), "warned before the work");
    fs::write(pod.root().join("etc/motd"), "work of hours\n").unwrap();
    pod.touch("complete");
    let statuses = ["fetching_image", "waiting_on_user", "error"];
    agent.ends(1, &statuses, &["cannot be packaged", "vmlinuz", "ims-job-agent package"]).await;
    pod.assert_no_image().await;

    let again = pod.package(&["--kernel", "vmlinuz-6.1.0"]);
    again.ends(0, &["packaging_artifacts", "success"], &[]).await;
    pod.assert_image().await;
    assert!(!pod.root().exists(), "published, so nothing is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_for_another_try_publishes_what_the_job_would_have() {
    let mut pod = Pod::with_image(|root| {
        fs::write(root.join("boot/altkernel"), "the other kernel").unwrap();
    })
    .await;
    let name = format!("it's $(touch {}/OWNED)", pod.stand.dir.path().display());
    pod.vars.insert("IMAGE_ROOT_ARCHIVE_NAME", name.clone());
    pod.vars.insert("KERNEL_FILENAME", "altkernel".into());
    pod.s3.fail("PUT manifest.json", Fault::Status(403), ALWAYS);
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    pod.touch("complete");
    let said = "to retry without a new session: ";
    agent.says(said).await;
    let log = agent.process.log();
    let statuses = ["fetching_image", "waiting_on_user", "packaging_artifacts", "error"];
    agent.ends(1, &statuses, &["cannot upload manifest", said]).await;
    pod.s3.heal();

    paste(&pod, log.split_once(said).unwrap().1.lines().next().unwrap());
    pod.assert_image().await;
    let image = pod.result().unwrap();
    assert_eq!(pod.stand.ims.get(&format!("v3/images/{image}")).await["name"], name);
    let kernel = pod.stand.get(&format!("s3://boot-images/{image}/kernel")).await;
    assert_eq!(kernel, b"the other kernel");
    assert!(!pod.stand.dir.path().join("OWNED").exists(), "the shell ran a part of the name");
}

/// Runs a line as somebody who pastes it into a shell of the job's container.
fn paste(pod: &Pod, line: &str) {
    assert!(line.contains(JOB), "{line}");
    let directory = agent().parent().unwrap().display().to_string();
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).env_clear().envs(&pod.vars);
    tree::run(shell.env("PATH", format!("{directory}:{}", pod.vars["PATH"])));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_both_signals_failed_wins() {
    for names in [["failed", "complete"], ["complete", "failed"]] {
        let pod = Pod::start().await;
        let mut agent = pod.run();
        agent.reaches("waiting_on_user").await;
        names.iter().for_each(|name| pod.touch(name));
        let statuses = ["fetching_image", "waiting_on_user", "error"];
        agent.ends(3, &statuses, &["the user gave up"]).await;
        pod.assert_no_image().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_from_before_the_job_are_stale() {
    let pod = Pod::start().await;
    pod.touch("failed");
    pod.touch("complete");
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    pod.touch("complete");
    let statuses = ["fetching_image", "waiting_on_user", "packaging_artifacts", "success"];
    agent.ends(0, &statuses, &[]).await;
    pod.assert_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_that_lets_nobody_in_ends_the_job_before_the_fetch() {
    let mut pod = Pod::start().await;
    let dir = pod.stand.dir.path();
    let (missing, empty, garbage) = (dir.join("missing"), dir.join("empty"), dir.join("garbage"));
    fs::write(&empty, "# nobody\n").unwrap();
    fs::write(&garbage, [0xff, 0xfe, 0x00, b'\n']).unwrap();
    let directory = dir.to_owned();
    for path in [missing, empty, garbage, directory] {
        pod.keys = path;
        let path = pod.keys.display().to_string();
        pod.run().ends(1, &["error"], &["nobody can log in", &path]).await;
        pod.renew_job();
    }
    assert_eq!(pod.s3.count(""), 0, "nothing was fetched");
    pod.assert_no_image().await;
}
