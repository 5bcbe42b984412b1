//! SIGTERM at every stage of a job: it ends by itself, says `error`, and leaves nothing half done.

use std::fs;
use std::io::Read;
use std::time::Instant;

use nix::sys::signal::Signal::{SIGINT, SIGTERM};

use crate::pod::{Agent, Pod};
use crate::support::proxy::{ALWAYS, Fault};
use crate::support::{SOON, eventually};

const PACKAGING: [&str; 4] = ["fetching_image", "waiting_on_user", "packaging_artifacts", "error"];

/// Kubernetes gives a pod 30 seconds between SIGTERM and SIGKILL.
const GRACE: u64 = 30;

async fn terminated(agent: Agent<'_>, statuses: &[&str], causes: &[&str]) {
    let asked = Instant::now();
    agent.process.signal(SIGTERM);
    agent.ends(143, statuses, causes).await;
    assert!(asked.elapsed().as_secs() < GRACE, "took {:?}", asked.elapsed());
}

async fn assert_can_be_packaged(pod: &Pod) {
    pod.assert_no_image().await;
    pod.package(&[]).ends(0, &["packaging_artifacts", "success"], &[]).await;
    pod.assert_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_status_is_told() {
    let pod = Pod::start().await;
    pod.ims.fail("PATCH /jobs", Fault::Hang, 1);
    let agent = pod.run();
    pod.ims.sees("PATCH /jobs").await;
    terminated(agent, &["error"], &["cancelled before IMS responded"]).await;
    assert_eq!(pod.s3.count(""), 0);
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_image_is_fetched() {
    let pod = Pod::start().await;
    pod.s3.fail("GET rootfs", Fault::Hang, ALWAYS);
    let agent = pod.run();
    pod.s3.sees("GET rootfs").await;
    terminated(agent, &["fetching_image", "error"], &["cannot fetch the image"]).await;
    pod.assert_no_image().await;
    assert!(!pod.parent.join(".ims-job-agent/rootfs.sqsh").exists(), "no partial download");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_user_works() {
    for signal in [SIGTERM, SIGINT] {
        let pod = Pod::start().await;
        let mut agent = pod.run();
        agent.reaches("waiting_on_user").await;
        agent.process.signal(signal);
        let statuses = ["fetching_image", "waiting_on_user", "error"];
        agent.ends(143, &statuses, &["cancelled while the user worked"]).await;
        assert_can_be_packaged(&pod).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_image_is_packed() {
    let pod = Pod::start().await;
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    // Enough to take seconds.
    let mut noise = fs::File::create(pod.root().join("noise")).unwrap();
    let random = fs::File::open("/dev/urandom").unwrap();
    std::io::copy(&mut random.take(150 << 20), &mut noise).unwrap();
    // An open file would keep the image root from being unmounted.
    drop(noise);
    pod.touch("complete");
    let packed = pod.parent.join(".ims-job-agent/out.sqsh.partial");
    eventually("packing has begun", SOON, async || packed.exists().then_some(())).await;
    terminated(agent, &PACKAGING, &["cannot pack"]).await;
    assert_eq!(pod.s3.count("PUT rootfs") + pod.s3.count("POST"), 0, "publishing had not begun");
    assert!(!packed.exists(), "half an image is no image");
    assert_can_be_packaged(&pod).await;
}

/// A job that hangs in `request` of its publishing, to IMS or to the store, gets SIGTERM, and says of the
/// roll-back what is expected.
async fn while_publishing(to_ims: bool, request: &str, says: &str) {
    let pod = Pod::start().await;
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    let proxy = if to_ims { &pod.ims } else { &pod.s3 };
    proxy.fail(request, Fault::Hang, 1);
    pod.touch("complete");
    proxy.sees(request).await;
    terminated(agent, &PACKAGING, &["cannot publish the image", says]).await;
    assert_can_be_packaged(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_record_is_made() {
    while_publishing(true, "POST /images", "no response about the new image record").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_upload_begins() {
    while_publishing(false, "POST ?uploads", "rolled back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_part_is_uploaded() {
    while_publishing(false, "PUT partNumber=2", "rolled back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_kernel_is_uploaded() {
    while_publishing(false, "PUT kernel", "rolled back").await;
}

/// The store carries a request out after the agent has gone and has looked for what to roll back.
async fn carried_out_late(request: &str) {
    let pod = Pod::start().await;
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    pod.s3.fail(request, Fault::Late("GET list-type=2"), 1);
    pod.touch("complete");
    pod.s3.sees(request).await;
    terminated(agent, &PACKAGING, &["cannot publish the image", "rolled back"]).await;
    pod.s3.is_late(request).await;
    assert_can_be_packaged(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_object_is_stored_that_appears_late() {
    carried_out_late("PUT kernel").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_an_upload_begins_that_appears_late() {
    carried_out_late("POST ?uploads").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_manifest_is_linked() {
    while_publishing(true, "PATCH /images", "rolled back").await;
}
