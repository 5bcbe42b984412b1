//! An environment that cannot be meant: named fault by fault, before anything is touched. And a stdout
//! that takes nothing.

use std::fs;
use std::process::Command;

use crate::pod::Pod;
use crate::support::process::Process;
use crate::support::{SOON, agent};

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_the_environment_is_named_and_nothing_is_started() {
    let mut pod = Pod::start().await;
    let wrong = [
        ("IMS_ACTION", "paint"),
        ("IMS_JOB_ID", "42"),
        ("IMS_URL", "ftp://ims"),
        ("IMS_PYTHON_HELPER_TIMEOUT", "soon"),
        ("DOWNLOAD_URL", "not a url"),
        ("DOWNLOAD_MD5SUM", "abc"),
        ("IMAGE_ROOT_PARENT", "mnt/image"),
        ("IMAGE_ROOT_ARCHIVE_NAME", ""),
        ("KERNEL_FILENAME", "../../etc/shadow"),
        ("BUILD_ARCH", "pdp11"),
        ("SSH_JAIL", "maybe"),
        ("JOB_ENABLE_DKMS", "perhaps"),
        ("ENABLE_DEBUG", "2"),
        ("S3_ENDPOINT", "s3.example"),
        ("S3_SECRET_KEY", ""),
        ("S3_SSL_VALIDATE", "ca.crt"),
    ];
    for (name, value) in wrong {
        pod.vars.insert(name, value.into());
    }
    let mut agent = pod.run();
    let status = agent.process.wait(SOON).await;
    let log = agent.process.log();
    assert_eq!(status.code(), Some(2), "{log}");
    for (name, value) in wrong {
        let fault = if value.is_empty() {
            format!("{name} is not set")
        } else {
            format!("{name}={value:?}")
        };
        assert!(log.contains(&fault), "{fault} is not in:\n{log}");
    }
    assert_eq!(agent.process.output(), "");
    assert_eq!(pod.ims.count("") + pod.s3.count(""), 0, "nobody was asked anything");
    assert_eq!(fs::read_dir(&pod.parent).unwrap().count(), 0, "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_faulty_url_is_not_logged() {
    let mut pod = Pod::start().await;
    pod.vars.insert("DOWNLOAD_URL", "s3://bucket/key?X-Amz-Signature=5ec4e7".into());
    let mut agent = pod.run();
    assert_eq!(agent.process.wait(SOON).await.code(), Some(2));
    let log = agent.process.log();
    assert!(log.contains("DOWNLOAD_URL") && !log.contains("5ec4e7"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_ends_the_record_of_the_job() {
    let mut pod = Pod::start().await;
    pod.vars.insert("KERNEL_FILENAME", "../vmlinuz".into());
    pod.vars.insert("TIMEOUT", "soon".into());
    let mut agent = pod.run();
    assert_eq!(agent.process.wait(SOON).await.code(), Some(2));
    let log = agent.process.log();
    assert!(log.contains("KERNEL_FILENAME=") && log.contains("TIMEOUT="), "{log}");
    assert_eq!(agent.statuses(), ["error"], "{log}");

    let mut step = step_of(&pod);
    assert_eq!(step.wait(SOON).await.code(), Some(2));
    assert_eq!(pod.statuses(), ["error", "error"], "{}", step.log());
    assert_eq!(pod.s3.count(""), 0, "nothing was started");
    assert_eq!(fs::read_dir(&pod.parent).unwrap().count(), 0, "nothing was made");
}

fn step_of(pod: &Pod) -> Process {
    let mut command = Command::new(agent());
    command.args(["step", "wait-for-repositories"]).env_clear().envs(&pod.vars);
    Process::start(command, pod.stand.dir.path(), "step")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_programs_take_is_no_fault() {
    let mut pod = Pod::start().await;
    pod.vars.insert("KERNEL_FILENAME", "/vmlinuz".into());
    pod.vars.insert("SSHD_OPTIONS", "-o ListenAddress=127.0.0.1".into());
    pod.vars.insert("LOG_LEVEL", "LOUD".into());
    let agent = pod.run();
    agent.says("waiting_on_user").await;
    let log = agent.process.log();
    assert!(log.contains("LOG_LEVEL") && log.contains("LOUD"), "{log}");
    assert!(!log.contains("NO kernel"), "{log}");
    pod.touch("complete");
    let statuses = ["fetching_image", "waiting_on_user", "packaging_artifacts", "success"];
    agent.ends(0, &statuses, &[]).await;
    pod.assert_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stdout_that_takes_nothing_does_not_change_the_end_of_a_job() {
    for script in ["exec \"$0\" \"$@\" > /dev/full", "set -o pipefail; \"$0\" \"$@\" | true"] {
        let pod = Pod::start().await;
        let mut agent = pod.run_through(&["bash", "-c", script], &[]);
        agent.reaches("waiting_on_user").await;
        pod.touch("complete");
        let status = agent.process.wait(3 * SOON).await;
        let log = agent.process.log();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(!log.contains("panicked"), "{log}");
        assert_eq!(agent.statuses().last().unwrap(), "success");
        pod.assert_image().await;
    }
}
