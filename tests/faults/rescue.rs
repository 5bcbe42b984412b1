//! The work of a job that fails is saved where it outlives the job's volume.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal::SIGTERM;
use serde_json::Value;

use crate::pod::{Agent, JOB, Pod};
use crate::support::proxy::{ALWAYS, Fault};
use crate::support::{agent, tree};

const FAILED: [&str; 4] = ["fetching_image", "waiting_on_user", "packaging_artifacts", "error"];

/// A pod with a directory for rescue; `in_cluster` as Kubernetes says it.
async fn pod(in_cluster: bool) -> (Pod, PathBuf) {
    let mut pod = Pod::start().await;
    let place = pod.stand.dir.path().join("rescue");
    fs::create_dir(&place).unwrap();
    pod.vars.insert("IMS_JOB_RESCUE", place.display().to_string());
    if in_cluster {
        pod.vars.insert("KUBERNETES_SERVICE_HOST", "10.0.0.1".into());
    }
    (pod, place)
}

async fn worked_on(pod: &Pod) -> Agent<'_> {
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    fs::write(pod.root().join("etc/motd"), "work of hours\n").unwrap();
    agent
}

/// What was saved, read back.
fn saved(pod: &Pod, place: &Path) -> Value {
    let place = place.join(JOB);
    let index = fs::read(place.join("rescue.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    for (name, size) in index["files"].as_object().unwrap() {
        assert_eq!(fs::metadata(place.join(name)).unwrap().len(), size.as_u64().unwrap(), "{name}");
    }
    let result = pod.stand.dir.path().join("saved");
    tree::unsquash(&place.join("rootfs"), &result);
    assert_eq!(fs::read_to_string(result.join("etc/motd")).unwrap(), "work of hours\n");
    index
}

/// Runs the command that the log has for it, in a shell.
async fn publish_by_the_log(pod: &Pod, log: &str) {
    let said = "run where these files can be read: ";
    let line = log.split_once(said).unwrap_or_else(|| panic!("{log}")).1.lines().next().unwrap();
    let directory = agent().parent().unwrap().display().to_string();
    let mut shell = Command::new("sh");
    shell.args(["-c", line]).env_clear().envs(&pod.vars);
    tree::run(shell.env("PATH", format!("{directory}:{}", pod.vars["PATH"])));
    assert_eq!(pod.new_images().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_image_is_saved_and_can_be_published_later() {
    let (pod, place) = pod(true).await;
    let agent = worked_on(&pod).await;
    pod.s3.fail("PUT manifest.json", Fault::Status(403), ALWAYS);
    pod.touch("complete");
    agent.says("the work of the job is saved in").await;
    let log = agent.process.log();
    agent.ends(1, &FAILED, &["cannot upload manifest"]).await;
    let index = saved(&pod, &place);
    assert!(index["reason"].as_str().unwrap().contains("403"), "{index}");
    assert!(!log.contains("package --root"), "nobody can do that in a pod that has ended: {log}");
    pod.s3.heal();
    publish_by_the_log(&pod, &log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_users_did_is_saved_when_the_node_is_drained() {
    let (pod, place) = pod(true).await;
    let agent = worked_on(&pod).await;
    // Without a kernel nothing can be published, but saved.
    fs::remove_file(pod.root().join("boot/vmlinuz")).unwrap();
    agent.process.signal(SIGTERM);
    let statuses = ["fetching_image", "waiting_on_user", "error"];
    agent.ends(143, &statuses, &["cancelled while the user worked"]).await;
    let index = saved(&pod, &place);
    assert!(index["files"]["kernel"].is_null() && index["files"]["initrd"].is_u64(), "{index}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_saves_the_work_in_the_store() {
    let (mut pod, _) = pod(true).await;
    pod.vars.insert("IMS_JOB_RESCUE", "s3://boot-images/saved/".into());
    let mut agent = pod.run_through(&[], &["--deadline", "3"]);
    agent.reaches("waiting_on_user").await;
    fs::write(pod.root().join("etc/motd"), "work of hours\n").unwrap();
    let statuses = ["fetching_image", "waiting_on_user", "error"];
    agent.ends(1, &statuses, &["--deadline"]).await;
    let place = pod.stand.dir.path().join("fetched");
    fs::create_dir_all(place.join(JOB)).unwrap();
    for key in pod.stand.keys("saved/").await {
        let name = key.strip_prefix("saved/").unwrap();
        fs::write(place.join(name), pod.stand.get(&format!("s3://boot-images/{key}")).await)
            .unwrap();
    }
    saved(&pod, &place);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_be_saved_stays_and_is_named() {
    let (mut pod, _) = pod(true).await;
    pod.vars.insert("IMS_JOB_RESCUE", "s3://boot-images/saved".into());
    let agent = worked_on(&pod).await;
    pod.s3.fail("PUT manifest.json", Fault::Status(403), ALWAYS);
    pod.s3.fail("PUT saved kernel", Fault::Status(403), ALWAYS);
    pod.touch("complete");
    let said = format!("cannot upload kernel; s3://boot-images/saved/{JOB} has only rootfs");
    agent.ends(1, &FAILED, &["cannot upload manifest", &said]).await;
    assert_eq!(pod.stand.keys("saved/").await, [format!("saved/{JOB}/rootfs")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_saved_of_a_job_that_its_user_gave_up() {
    let (pod, place) = pod(true).await;
    let agent = worked_on(&pod).await;
    pod.touch("failed");
    agent.ends(3, &["fetching_image", "waiting_on_user", "error"], &["gave up"]).await;
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_cannot_be_used_is_shown_before_the_work() {
    let (mut pod, place) = pod(true).await;
    pod.vars.insert("IMS_JOB_RESCUE", place.join("not-there").display().to_string());
    let agent = worked_on(&pod).await;
    agent.says("the work will not be saved if the job fails").await;
    pod.s3.fail("PUT manifest.json", Fault::Status(403), ALWAYS);
    pod.touch("complete");
    agent
        .ends(1, &FAILED, &["cannot save the work of the job", "lost when IMS removes", "manifest"])
        .await;
}
