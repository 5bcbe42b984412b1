//! A job in every shape that a pod may have: privileged or with a container runtime's default
//! capabilities, beside a shell or as PID 1, packed by either engine. The image must be the same.

use std::process::Command;

use serde_json::Value;

use crate::pod::{Agent, Pod};
use crate::support::tree::{self, Tree};

const SUCCESS: [&str; 4] = ["fetching_image", "waiting_on_user", "packaging_artifacts", "success"];

/// What a container has that asks for nothing (the list of runc, containerd and cri-o).
const DEFAULT_CAPABILITIES: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,\
     +setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";

const WITHOUT_PRIVILEGES: [&str; 3] = ["setpriv", "--bounding-set", DEFAULT_CAPABILITIES];
const AS_PID_1: [&str; 4] = ["unshare", "--pid", "--fork", "--mount-proc"];

/// In the image, for both kinds of session. A hard link's other names must show the change.
const CHANGE: &str = "echo changed > etc/motd; rm usr/lib/empty; chmod 0600 usr/lib/setuid; \
                      echo more >> usr/lib/hard-a; mkdir opt; ln -s /etc/motd opt/link";

async fn works(wrapper: &[&str], options: &[&str], said: &[&str]) {
    // Nobody but a privileged process may write attributes of this class.
    let pod = Pod::with_image(|root| {
        xattr::remove(root.join("usr/lib/with xattr"), "trusted.note").unwrap();
    })
    .await;
    let mut agent = pod.run_through(wrapper, options);
    agent.reaches("waiting_on_user").await;
    pod.stand.key.exec(agent.port, &format!("cd / && {CHANGE}"));
    // Long gone when the job ends, and not the session's child any more: PID 1 has to reap it.
    pod.stand.key.exec(agent.port, "(sh -c 'exit 3' &) ; touch /tmp/complete");
    ends_well(agent, said).await;
    pod.assert_image().await;
    let image = pod.result().unwrap();
    assert_same_tree(&pod, &image).await;
    assert_changes(&pod, &image).await;
}

async fn ends_well(agent: Agent<'_>, said: &[&str]) {
    agent.ends(0, &SUCCESS, said).await;
}

async fn assert_same_tree(pod: &Pod, image: &str) {
    let dir = pod.stand.dir.path();
    let rootfs = dir.join("result.sqsh");
    let bytes = pod.stand.get(&format!("s3://boot-images/{image}/rootfs")).await;
    std::fs::write(&rootfs, bytes).unwrap();
    tree::unsquash(&rootfs, &dir.join("result"));
    let expected = dir.join("root");
    tree::run(Command::new("sh").args(["-e", "-c", CHANGE]).current_dir(&expected));
    let timeless = |mut tree: Tree| {
        tree.values_mut().for_each(|entry| entry.mtime = 0);
        tree
    };
    tree::assert_same(&timeless(tree::read(&dir.join("result"))), &timeless(tree::read(&expected)));
}

/// `changes.json` tells all of it and nothing else.
async fn assert_changes(pod: &Pod, image: &str) {
    let json = pod.stand.get(&format!("s3://boot-images/{image}/changes.json")).await;
    let changes: Value = serde_json::from_slice(&json).unwrap();
    let paths = |list: &str| -> Vec<String> {
        let items = changes[list].as_array().unwrap().iter();
        items.map(|item| item["path"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(changes["version"], "1.0");
    assert!(changes["base"]["path"].as_str().unwrap().ends_with("/rootfs"), "{changes}");
    assert_eq!(paths("added"), ["etc/motd", "opt", "opt/link"]);
    assert_eq!(paths("removed"), ["usr/lib/empty"]);
    let changed = ["usr/lib/hard-a", "usr/lib/hard-b", "usr/lib/setuid"];
    assert_eq!(paths("changed"), changed);
}

#[tokio::test(flavor = "multi_thread")]
async fn privileged() {
    works(&[], &[], &["own mount and pid namespaces", "packed with the built-in engine"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unpacked_because_it_was_asked_for() {
    works(&[], &["--workspace", "unpack"], &["packed with the built-in engine"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_by_mksquashfs() {
    works(&[], &["--engine", "mksquashfs"], &["the image is packed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_privileges() {
    let said = ["the image is unpacked instead of mounted", "no CAP_SYS_ADMIN"];
    works(&WITHOUT_PRIVILEGES, &[], &said).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_pid_1() {
    works(&AS_PID_1, &[], &["own mount and pid namespaces"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_pid_1_without_privileges() {
    let wrapper = [&AS_PID_1[..], &WITHOUT_PRIVILEGES].concat();
    works(&wrapper, &[], &["no CAP_SYS_ADMIN"]).await;
}
