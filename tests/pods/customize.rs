//! Customize jobs in every pod that there is for them.

use std::path::Path;
use std::process::Command;

use crate::kube::{Kube, Spec};
use crate::specs;
use crate::support::pod::Pod;
use crate::support::ssh::Key;
use crate::support::{SOON, cfs, eventually, tree};

const SUCCESS: [&str; 4] = ["fetching_image", "waiting_on_user", "packaging_artifacts", "success"];

/// What the sessions do, in the image root.
const CHANGE: &str = "echo changed > etc/motd; rm usr/lib/empty; mkdir opt";

/// A job's surroundings, with a key as CFS has.
async fn pod() -> (Pod, Key) {
    // Only a privileged container can read attributes of this class when it packs.
    let pod = Pod::with_image(|root| {
        xattr::remove(root.join("usr/lib/with xattr"), "trusted.note").unwrap();
    })
    .await;
    let key = Key::make(pod.stand.dir.path(), "ecdsa");
    (pod, key)
}

/// Changes the image and ends the job as CFS does.
fn change(kube: &Kube, key: &Key) {
    cfs::exec(kube.port, &key.private, &format!("cd / && {CHANGE}; touch /tmp/complete"));
}

/// The new image has what the session changed, and nothing that was there for its sake.
async fn assert_changed(pod: &Pod) {
    pod.assert_image().await;
    let image = pod.result().unwrap();
    let file = pod.stand.dir.path().join("result.sqsh");
    std::fs::write(&file, pod.stand.get(&format!("s3://boot-images/{image}/rootfs")).await)
        .unwrap();
    let dir = pod.stand.dir.path().join("result");
    tree::unsquash(&file, &dir);
    // The CA stays in the image, by contract.
    std::fs::remove_dir_all(dir.join("etc/cray")).unwrap();
    let (found, expected) = (tree::read(&dir), pod.stand.dir.path().join("root"));
    tree::run(Command::new("sh").args(["-ec", CHANGE]).current_dir(&expected));
    assert_eq!(std::fs::read_to_string(dir.join("etc/motd")).unwrap(), "changed\n");
    assert!(!found.contains_key(Path::new("./tmp/complete")));
    let names: Vec<_> = found.keys().collect();
    assert_eq!(names, tree::read(&expected).keys().collect::<Vec<_>>());
}

async fn succeeds(spec: Spec, codes: &[(&str, i32)]) {
    let (pod, key) = pod().await;
    let mut kube = Kube::start(&pod, &key, spec).await;
    kube.reaches(&pod, "waiting_on_user").await;
    change(&kube, &key);
    kube.reaches(&pod, "success").await;
    kube.ended(codes).await;
    let mut statuses = pod.statuses();
    statuses.dedup();
    assert_eq!(statuses, SUCCESS);
    assert_changed(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_containers() {
    succeeds(specs::customize_two_containers, &[("agent", 0), ("sessions", 0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_containers() {
    succeeds(specs::customize_three_containers, &[("buildenv-sidecar", 0), ("sshd", 0)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_container_with_dkms() {
    let (mut pod, key) = pod().await;
    pod.vars.insert("JOB_ENABLE_DKMS", "True".into());
    let mut kube = Kube::start(&pod, &key, specs::customize).await;
    kube.reaches(&pod, "waiting_on_user").await;
    let look = "cat /proc/mounts; ls /dev/null /sys/module; echo $IMS_DKMS_ENABLED";
    let seen = key.exec(kube.port, look);
    for part in [" /proc proc ", " /sys sysfs ", " /dev ", "/dev/null", "True"] {
        assert!(seen.contains(part), "{part} is not in {seen}");
    }
    change(&kube, &key);
    kube.reaches(&pod, "success").await;
    kube.ended(&[("agent", 0)]).await;
    assert_eq!(pod.statuses(), SUCCESS);
    assert_changed(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_containers_given_up() {
    let (pod, key) = pod().await;
    let mut kube = Kube::start(&pod, &key, specs::customize_three_containers).await;
    kube.reaches(&pod, "waiting_on_user").await;
    cfs::exec(kube.port, &key.private, "touch /tmp/failed");
    kube.reaches(&pod, "error").await;
    kube.ended(&[("buildenv-sidecar", 3), ("sshd", 3)]).await;
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_stopped_ends_in_error() {
    for (spec, codes) in [
        (specs::customize as Spec, &[("agent", 143)][..]),
        (specs::customize_two_containers, &[("agent", 143), ("sessions", 143)]),
        (specs::customize_three_containers, &[("buildenv-sidecar", 143), ("sshd", 143)]),
    ] {
        let (pod, key) = pod().await;
        let mut kube = Kube::start(&pod, &key, spec).await;
        kube.reaches(&pod, "waiting_on_user").await;
        kube.stop();
        kube.reaches(&pod, "error").await;
        kube.ended(codes).await;
        pod.assert_no_image().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_were_killed_go_on_after_a_restart() {
    let (pod, key) = pod().await;
    let mut kube = Kube::start(&pod, &key, specs::customize_two_containers).await;
    kube.reaches(&pod, "waiting_on_user").await;
    key.exec(kube.port, "echo before > /tmp/note");
    kube.kill("sessions");
    kube.restart("sessions");
    eventually("the server is back", SOON, async || {
        key.try_exec(kube.port, "true").status.success().then_some(())
    })
    .await;
    assert_eq!(key.exec(kube.port, "cat /tmp/note; rm /tmp/note"), "before\n");
    change(&kube, &key);
    kube.reaches(&pod, "success").await;
    kube.ended(&[("agent", 0), ("sessions", 0)]).await;
    assert_changed(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_were_killed_for_good_end_the_job() {
    let (pod, key) = pod().await;
    let mut kube = Kube::start(&pod, &key, specs::customize_two_containers).await;
    kube.reaches(&pod, "waiting_on_user").await;
    kube.kill("sessions");
    kube.reaches(&pod, "error").await;
    kube.ended(&[("agent", 1), ("sessions", 137)]).await;
    assert!(
        kube.logs().contains("the sessions was killed and did not come back"),
        "{}",
        kube.logs()
    );
    pod.assert_no_image().await;
}
