//! An agent that is killed and started again, and one that is started beside another.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command};

use nix::sys::signal::Signal::SIGKILL;

use crate::pod::{Agent, JOB, OTHER_JOB, Pod, Volume};
use crate::support::proxy::{ALWAYS, Fault};
use crate::support::{SOON, eventually};

const SUCCEEDED: [&str; 4] =
    ["fetching_image", "waiting_on_user", "packaging_artifacts", "success"];

/// What tells whether a file was written since.
fn written(path: &Path) -> (u64, i64, i64) {
    let metadata = fs::metadata(path).unwrap();
    (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
}

/// Waits for an agent that has to go; gives its log.
async fn sent_away(mut agent: Agent<'_>, code: i32) -> String {
    let status = agent.process.wait(3 * SOON).await;
    let log = agent.process.log();
    assert_eq!(status.code(), Some(code), "{log}");
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_was_done_is_not_waited_for_again() {
    let pod = Pod::start().await;
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    fs::write(pod.root().join("etc/work"), "of the user").unwrap();
    pod.ims.fail("POST /images", Fault::Hang, 1);
    pod.touch("complete");
    pod.ims.sees("POST /images").await;
    agent.process.signal(SIGKILL);
    agent.process.wait(SOON).await;
    // A jailed user's signal has been taken out of the image by now.
    fs::remove_file(pod.parent.join("complete")).unwrap();
    let statuses = ["fetching_image", "packaging_artifacts", "success"];
    pod.run()
        .ends(
            0,
            &statuses,
            &["the user completed the image before the agent was \
        restarted"],
        )
        .await;
    pod.assert_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_is_not_published_again() {
    let pod = Pod::start().await;
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    let held = pod.parent.join(".ims-job-agent/held");
    fs::create_dir(&held).unwrap();
    // Keeps the agent from removing all, as if it had been killed while it did.
    let volume = Volume::mount(&held, 1);
    pod.touch("complete");
    agent.process.wait(3 * SOON).await;
    assert_eq!(agent.statuses(), SUCCEEDED, "{}", agent.process.log());
    drop(volume);
    assert!(pod.parent.join(".ims-job-agent/state.json").exists());
    fs::create_dir_all(pod.root()).unwrap();
    fs::write(pod.root().join("half"), "of a root").unwrap();

    pod.run().ends(0, &["success"], &["has published its image"]).await;
    pod.assert_image().await;
    assert!(!pod.root().exists());
    assert!(!pod.parent.join(".ims-job-agent").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_does_not_disturb_the_first() {
    let pod = Pod::start().await;
    let mut first = pod.run();
    first.reaches("waiting_on_user").await;
    let image = pod.parent.join(".ims-job-agent/rootfs.sqsh");
    let before = written(&image);

    // IMS is told nothing by another agent of the same job: the job lives.
    let log = sent_away(pod.run(), 1).await;
    assert!(log.contains(&format!("in use by another ims-job-agent (job {JOB})")), "{log}");
    let other = format!("IMS_JOB_ID={OTHER_JOB}");
    let log = sent_away(pod.run_through(&["env", &other], &[]), 4).await;
    assert!(log.contains(&format!("in use by another ims-job-agent (job {JOB})")), "{log}");

    assert_eq!(written(&image), before);
    pod.touch("complete");
    first.ends(0, &SUCCEEDED, &[]).await;
    pod.assert_image().await;
}

/// An agent that is killed while it publishes, in each request before and after it is carried out: another
/// run publishes one image, and nothing of the first is left.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_publication_is_finished_or_withdrawn() {
    for (to_ims, request) in [
        (true, "POST /images"),
        (false, "POST ?uploads"),
        (false, "PUT partNumber=2"),
        (false, "POST uploadId"),
        (false, "PUT kernel"),
        (false, "PUT manifest"),
        (true, "PATCH /images"),
    ] {
        for fault in [Fault::Hang, Fault::Keep] {
            let pod = Pod::start().await;
            let mut agent = pod.run();
            agent.reaches("waiting_on_user").await;
            let proxy = if to_ims { &pod.ims } else { &pod.s3 };
            proxy.fail(request, fault, 1);
            pod.touch("complete");
            match fault {
                Fault::Keep => proxy.carries_out(request).await,
                _ => proxy.sees(request).await,
            }
            agent.process.signal(SIGKILL);
            agent.process.wait(SOON).await;
            let mut again = pod.run();
            let status = again.process.wait(3 * SOON).await;
            let log = again.process.log();
            assert_eq!(status.code(), Some(0), "{request} {fault:?}: {log}");
            pod.assert_image().await;
            let images = pod.new_images().await;
            for key in pod.stand.keys("").await {
                let image = key.split('/').next().unwrap();
                let known = images.iter().any(|id| id == image) || pod.is_of_base(&key);
                assert!(known, "{request} {fault:?}: {key} is left\n{log}");
            }
        }
    }
}

/// What has ended is not begun again, whatever lies in the directory.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_over_stays_over() {
    let pod = Pod::start().await;
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    pod.touch("complete");
    agent.ends(0, &SUCCEEDED, &[]).await;
    // Killed after the directory was removed, before it could exit.
    pod.run().ends(0, &["success"], &["has published its image"]).await;
    pod.assert_image().await;

    let pod = Pod::start().await;
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    pod.touch("failed");
    agent.ends(3, &["fetching_image", "waiting_on_user", "error"], &["gave up"]).await;
    pod.run().ends(1, &[], &["the job ended with error before"]).await;
    pod.assert_no_image().await;
    let deleted = "IMS_JOB_ID=5a7b1c9e-0000-4000-8000-00000000fa19";
    let log = sent_away(pod.run_through(&["env", deleted], &[]), 1).await;
    assert!(log.contains("IMS has no record of the job"), "{log}");
}

/// Its image stays the only one, also where `package` was to publish it and IMS did not take the last status.
#[tokio::test(flavor = "multi_thread")]
async fn package_does_not_publish_again_what_is_published() {
    let pod = Pod::start().await;
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    pod.ims.fail("POST /images", Fault::Status(422), ALWAYS);
    pod.touch("complete");
    let statuses = ["fetching_image", "waiting_on_user", "packaging_artifacts", "error"];
    agent.ends(1, &statuses, &["422"]).await;
    pod.ims.heal();
    pod.records.lock().unwrap().refuse = Some(("success", 404));
    let log = sent_away(pod.package(&[]), 4).await;
    assert!(log.contains("image complete"), "{log}");
    pod.records.lock().unwrap().refuse = None;
    pod.package(&[]).ends(0, &["success"], &["has published its image"]).await;
    pod.assert_image().await;
}

/// A process that has a copy of all mounts of the moment, as a container's runtime may.
struct Holder(Child);

impl Holder {
    async fn start() -> Self {
        let mut command = Command::new("unshare");
        let child = command.args(["--mount", "sleep", "600"]).spawn().unwrap();
        let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let (pid, own) = (child.id().to_string(), namespace("self"));
        eventually("a namespace of its own", SOON, async || (namespace(&pid) != own).then_some(()))
            .await;
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overlay_that_another_namespace_holds_is_waited_for() {
    let pod = Pod::start().await;
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    fs::write(pod.root().join("etc/work"), "of the user").unwrap();
    let holder = Holder::start().await;
    agent.process.signal(SIGKILL);
    agent.process.wait(SOON).await;

    let mut next = pod.run();
    next.says("still in use by an earlier run").await;
    let named = format!("sleep ({}) has it mounted", holder.0.id());
    assert!(next.process.log().contains(&named), "{}", next.process.log());
    drop(holder);
    next.reaches("waiting_on_user").await;
    assert_eq!(fs::read_to_string(pod.root().join("etc/work")).unwrap(), "of the user");
    let holder = Holder::start().await;
    next.process.signal(SIGKILL);
    next.process.wait(SOON).await;

    let package = pod.package(&[]);
    package.says("still in use by an earlier run").await;
    drop(holder);
    package.ends(0, &["packaging_artifacts", "success"], &[]).await;
    pod.assert_image().await;
}
