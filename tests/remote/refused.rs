//! Nodes that cannot be used: each is a clear error before anything is done, or as soon as it shows.

use std::fs;

use crate::host::{Oddities, SecondHost};
use crate::pod::Pod;
use crate::support::ssh::Key;

/// A job that fails before its user came in.
async fn fails(pod: &Pod, options: &[&str], causes: &[&str]) {
    pod.renew_job();
    pod.run_through(&[], options).ends(1, &["fetching_image", "error"], causes).await;
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_key_that_is_another() {
    let mut pod = Pod::start().await;
    let host = SecondHost::start(&mut pod).await;
    let other = tempfile::tempdir().unwrap();
    let line = format!("{} {}", host.address(), Key::make(other.path(), "ed25519").public);
    // The one that this job has seen before.
    let agent = pod.parent.join(".ims-job-agent");
    fs::create_dir_all(&agent).unwrap();
    fs::write(agent.join("known_hosts"), &line).unwrap();
    let causes = ["this may be an attack", "known_hosts", "SHA256:"];
    fails(&pod, &host.options(), &causes).await;
    // The one that the site knows.
    fs::remove_file(agent.join("known_hosts")).unwrap();
    fs::write(host.keys.join("known_hosts"), &line).unwrap();
    fails(&pod, &host.options(), &causes).await;
    // The right one: nothing is learned.
    let right = format!("{} {}", host.address(), host.host_key());
    fs::write(host.keys.join("known_hosts"), right).unwrap();
    pod.renew_job();
    let mut agent = pod.run_through(&[], &host.options());
    agent.reaches("waiting_on_user").await;
    assert!(!pod.parent.join(".ims-job-agent/known_hosts").exists());
    pod.stand.key.exec(agent.port, "touch /tmp/failed");
    agent.ends(3, &["fetching_image", "waiting_on_user", "error"], &["the user gave up"]).await;
    host.is_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_the_keys_or_has_none() {
    let mut pod = Pod::start().await;
    let host = SecondHost::start(&mut pod).await;
    host.refuse();
    fails(&pod, &host.options(), &["refused every key"]).await;
    let empty = tempfile::tempdir().unwrap();
    let options = ["--remote-keys", empty.path().to_str().unwrap()];
    pod.renew_job();
    pod.run_through(&[], &options).ends(1, &["error"], &["no usable private key"]).await;
    pod.vars.insert("REMOTE_BUILD_NODE", "not a host".into());
    pod.renew_job();
    pod.run_through(&[], &host.options()).ends(1, &["error"], &["neither HOST nor"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_answer() {
    let mut pod = Pod::start().await;
    let host = SecondHost::start(&mut pod).await;
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    pod.vars.insert("REMOTE_BUILD_NODE", mute.local_addr().unwrap().to_string());
    fails(&pod, &host.options(), &["did not complete within 30 s"]).await;
    drop(mute);
    fails(&pod, &host.options(), &["cannot connect to the remote build node"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_architecture() {
    let mut pod = Pod::start().await;
    let odd = Oddities { arch: Some("riscv64"), ..Oddities::default() };
    let host = SecondHost::odd(&mut pod, odd).await;
    fails(&pod, &host.options(), &["is riscv64, and ", "contains no program for it"]).await;
    host.is_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_is_full() {
    let mut pod = Pod::start().await;
    let odd = Oddities { mebibytes: Some(6), ..Oddities::default() };
    let host = SecondHost::odd(&mut pod, odd).await;
    fails(&pod, &host.options(), &["cannot fetch the image", "are free"]).await;
    host.is_clean().await;
    host.run("dd if=/dev/zero of=/tmp/filler bs=1M 2>/dev/null; true");
    fails(&pod, &host.options(), &["cannot write the job's files"]).await;
    host.run("rm /tmp/filler");
    host.is_clean().await;
}
