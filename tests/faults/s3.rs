//! A store that is dead, answers 503, breaks off, refuses, or loses answers.

use std::fs;

use crate::pod::{Agent, Pod};
use crate::support::proxy::{ALWAYS, Fault};

const SUCCEEDED: [&str; 4] =
    ["fetching_image", "waiting_on_user", "packaging_artifacts", "success"];
const FAILED: [&str; 4] = ["fetching_image", "waiting_on_user", "packaging_artifacts", "error"];

/// A job whose user has done something and is about to say `complete`.
async fn worked_on(pod: &Pod) -> Agent<'_> {
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    fs::write(pod.root().join("etc/motd"), "work of hours\n").unwrap();
    agent
}

/// After the failure: what was packed by hand later has the work.
async fn assert_work_is_not_lost(pod: &Pod) {
    pod.assert_no_image().await;
    pod.package(&[]).ends(0, &["packaging_artifacts", "success"], &[]).await;
    pod.assert_image().await;
    let rootfs = pod.stand.get(&format!("s3://boot-images/{}/rootfs", pod.result().unwrap())).await;
    let image = pod.stand.dir.path().join("result.sqsh");
    fs::write(&image, rootfs).unwrap();
    let result = pod.stand.dir.path().join("result");
    crate::support::tree::unsquash(&image, &result);
    assert_eq!(fs::read_to_string(result.join("etc/motd")).unwrap(), "work of hours\n");
    assert!(!pod.root().exists(), "published, so nothing is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_store_the_job_ends() {
    let pod = Pod::start().await;
    pod.s3.down().await;
    pod.run().ends(1, &["fetching_image", "error"], &["cannot fetch the image"]).await;
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_dies_while_the_user_works_does_not_cost_the_work() {
    let pod = Pod::start().await;
    let agent = worked_on(&pod).await;
    pod.s3.down().await;
    pod.touch("complete");
    agent.ends(1, &FAILED, &["cannot upload rootfs", "ims-job-agent package"]).await;
    pod.s3.up().await;
    assert_work_is_not_lost(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_503_is_sat_out() {
    let pod = Pod::start().await;
    pod.s3.fail("GET rootfs", Fault::Status(503), 3);
    let agent = worked_on(&pod).await;
    for request in
        ["POST ?uploads", "partNumber=1", "partNumber=2", "POST uploadId", "HEAD", "PUT kernel"]
    {
        pod.s3.fail(request, Fault::Status(503), 2);
    }
    pod.touch("complete");
    agent.ends(0, &SUCCEEDED, &["503", "retrying"]).await;
    pod.assert_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_is_resumed() {
    let pod = Pod::start().await;
    pod.s3.fail("GET rootfs", Fault::Cut, 3);
    let agent = worked_on(&pod).await;
    pod.touch("failed");
    agent.ends(3, &["fetching_image", "waiting_on_user", "error"], &["the user gave up"]).await;
    assert!(pod.s3.count("GET rootfs") > 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_trickles_is_asked_for_again_and_given_up_in_time() {
    let pod = Pod::start().await;
    pod.s3.fail("GET rootfs", Fault::Trickle, ALWAYS);
    let causes = [
        "cannot fetch the image",
        "is too slow: the transfer rate was ",
        "less than 1024 B/s for \
          5 s",
    ];
    pod.run().ends(1, &["fetching_image", "error"], &causes).await;
    assert!(pod.s3.count("GET rootfs") > 1);
    pod.assert_no_image().await;

    let pod = Pod::start().await;
    pod.s3.fail("GET rootfs", Fault::Trickle, 1);
    let agent = worked_on(&pod).await;
    pod.touch("failed");
    agent.ends(3, &["fetching_image", "waiting_on_user", "error"], &["the user gave up"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_url_that_has_expired_is_replaced() {
    let pod = Pod::start().await;
    pod.s3.fail("GET rootfs", Fault::Status(403), 1);
    let agent = worked_on(&pod).await;
    pod.touch("failed");
    agent.ends(3, &["fetching_image", "waiting_on_user", "error"], &["the user gave up"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_storm_leaves_no_upload_and_no_record() {
    let pod = Pod::start().await;
    let agent = worked_on(&pod).await;
    pod.s3.fail("PUT partNumber=2", Fault::Status(503), ALWAYS);
    pod.touch("complete");
    agent.ends(1, &FAILED, &["cannot upload rootfs", "503"]).await;
    pod.s3.heal();
    assert_work_is_not_lost(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_uploaded_before_a_refusal_is_removed() {
    let pod = Pod::start().await;
    let agent = worked_on(&pod).await;
    pod.s3.fail("PUT manifest.json", Fault::Status(403), ALWAYS);
    pod.touch("complete");
    agent.ends(1, &FAILED, &["cannot upload manifest", "403"]).await;
    pod.s3.heal();
    assert_work_is_not_lost(&pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_first_answer_was_lost_is_not_left_beside_the_image() {
    let pod = Pod::start().await;
    let agent = worked_on(&pod).await;
    pod.s3.fail("POST ?uploads", Fault::Cut, 1);
    pod.touch("complete");
    agent.ends(0, &SUCCEEDED, &["aborted an unfinished upload"]).await;
    assert!(pod.s3.count("POST ?uploads") > 1);
    pod.assert_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_last_answer_was_lost_is_complete() {
    let pod = Pod::start().await;
    let agent = worked_on(&pod).await;
    pod.s3.fail("POST uploadId", Fault::Cut, 1);
    pod.touch("complete");
    agent.ends(0, &SUCCEEDED, &[]).await;
    pod.assert_image().await;
}
