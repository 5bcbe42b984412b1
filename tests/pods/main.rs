//! Jobs in containers: the image is built by images/build and run by `podman play kube`, which here
//! stands for a kubelet, with ConfigMap, Secret, volume and init container.

mod kube;
#[path = "../support/mod.rs"]
mod support;
mod templates;

use std::path::Path;
use std::process::Command;

use kube::Kube;
use support::pod::Pod;
use support::ssh::Key;
use support::{cfs, tree};

const SUCCESS: [&str; 4] = ["fetching_image", "waiting_on_user", "packaging_artifacts", "success"];

/// A job's surroundings, with a key as CFS has.
async fn pod() -> (Pod, Key) {
    // Only a privileged container can read attributes of this class when it packs.
    let mut pod = Pod::with_image(|root| {
        xattr::remove(root.join("usr/lib/with xattr"), "trusted.note").unwrap();
    })
    .await;
    let key = Key::make(pod.stand.dir.path(), "ecdsa");
    pod.vars.insert("IMAGE_ROOT_PARENT", "/mnt/image".into());
    pod.vars.remove("OAUTH_CONFIG_DIR");
    (pod, key)
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
    let (found, expected) = (tree::read(&dir), pod.stand.dir.path().join("root"));
    tree::run(Command::new("sh").args(["-ec", kube::CHANGE]).current_dir(&expected));
    assert_eq!(std::fs::read_to_string(dir.join("etc/motd")).unwrap(), "changed\n");
    assert!(!found.contains_key(Path::new("./tmp/complete")));
    let names: Vec<_> = found.keys().collect();
    assert_eq!(names, tree::read(&expected).keys().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_container() {
    let (pod, key) = pod().await;
    let kube = Kube::start(&pod, &key, kube::one_container).await;
    kube.reaches(&pod, "waiting_on_user").await;
    cfs::exec(kube.port, &key.private, &format!("cd / && {}; touch /tmp/complete", kube::CHANGE));
    kube.reaches(&pod, "success").await;
    kube.ended(&[("agent", 0)]).await;
    assert_eq!(pod.statuses(), SUCCESS);
    assert_changed(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_containers() {
    let (pod, key) = pod().await;
    let kube = Kube::start(&pod, &key, kube::three_containers).await;
    kube.reaches(&pod, "waiting_on_user").await;
    cfs::exec(kube.port, &key.private, &format!("cd / && {}; touch /tmp/complete", kube::CHANGE));
    kube.reaches(&pod, "success").await;
    kube.ended(&[("buildenv-sidecar", 0), ("sshd", 0)]).await;
    let mut statuses = pod.statuses();
    statuses.dedup();
    assert_eq!(statuses, SUCCESS);
    assert_changed(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_containers_given_up() {
    let (pod, key) = pod().await;
    let kube = Kube::start(&pod, &key, kube::three_containers).await;
    kube.reaches(&pod, "waiting_on_user").await;
    cfs::exec(kube.port, &key.private, "touch /tmp/failed");
    kube.reaches(&pod, "error").await;
    kube.ended(&[("buildenv-sidecar", 3), ("sshd", 3)]).await;
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_stopped_ends_in_error() {
    for (yaml, codes) in [
        (kube::one_container as kube::Yaml, &[("agent", 143)][..]),
        (kube::three_containers, &[("buildenv-sidecar", 143), ("sshd", 143)]),
    ] {
        let (pod, key) = pod().await;
        let kube = Kube::start(&pod, &key, yaml).await;
        kube.reaches(&pod, "waiting_on_user").await;
        kube.stop();
        kube.reaches(&pod, "error").await;
        kube.ended(codes).await;
        pod.assert_no_image().await;
    }
}
