//! An IMS that is dead, hangs, answers 503, refuses, or lets tokens expire.

use crate::pod::Pod;
use crate::support::proxy::{ALWAYS, Fault};

const UNTOLD: &str = "cannot report the end of the job to IMS";
const SUCCEEDED: [&str; 4] =
    ["fetching_image", "waiting_on_user", "packaging_artifacts", "success"];
const FAILED: [&str; 4] = ["fetching_image", "waiting_on_user", "packaging_artifacts", "error"];

#[tokio::test(flavor = "multi_thread")]
async fn without_an_ims_nothing_is_fetched() {
    let pod = Pod::start().await;
    pod.ims.down().await;
    pod.run().ends(4, &[], &["the job failed", UNTOLD, "GET"]).await;
    assert_eq!(pod.s3.count(""), 0);
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ims_that_hangs_is_given_up() {
    let pod = Pod::start().await;
    pod.ims.fail("PATCH", Fault::Hang, ALWAYS);
    pod.run().ends(4, &[], &["the job failed", UNTOLD, "PATCH"]).await;
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_costs_one_try_and_not_the_job() {
    let mut pod = Pod::start().await;
    pod.vars.insert("IMS_PYTHON_HELPER_TIMEOUT", "3".into());
    pod.ims.fail("PATCH /jobs", Fault::Hang, 1);
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    pod.ims.fail("PATCH /images", Fault::Hang, 1);
    pod.s3.fail("POST uploadId", Fault::Hang, 1);
    pod.ims.fail("PATCH /jobs", Fault::Hang, 1);
    pod.touch("complete");
    agent.ends(0, &SUCCEEDED, &["retrying"]).await;
    pod.assert_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_503_is_sat_out() {
    let pod = Pod::start().await;
    pod.ims.fail("PATCH /jobs", Fault::Status(503), 3);
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    for request in ["PATCH /jobs", "POST /images", "PATCH /images"] {
        pod.ims.fail(request, Fault::Status(503), 3);
    }
    pod.touch("complete");
    agent.ends(0, &SUCCEEDED, &["503", "retrying"]).await;
    pod.assert_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ims_that_dies_while_the_user_works_does_not_cost_the_work() {
    let pod = Pod::start().await;
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    pod.ims.down().await;
    pod.touch("complete");
    agent.ends(4, &FAILED[..2], &["cannot create the image record", UNTOLD]).await;
    pod.assert_no_image().await;

    pod.ims.up().await;
    pod.package(&[]).ends(0, &["packaging_artifacts", "success"], &[]).await;
    pod.assert_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_whose_answer_was_lost_is_found_again() {
    let pod = Pod::start().await;
    pod.ims.fail("POST /images", Fault::Cut, 1);
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    pod.touch("complete");
    agent.ends(0, &SUCCEEDED, &["but its response was lost"]).await;
    pod.assert_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_linked_is_rolled_back() {
    let pod = Pod::start().await;
    pod.ims.fail("PATCH /images", Fault::Status(409), ALWAYS);
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    pod.touch("complete");
    agent.ends(1, &FAILED, &["cannot link the manifest", "409"]).await;
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_image_is_kept_although_its_job_cannot_be_told() {
    let pod = Pod::start().await;
    pod.records.lock().unwrap().refuse = Some(("resultant_image_id", 422));
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    pod.touch("complete");
    agent.ends(1, &FAILED, &["is complete and registered", "422"]).await;
    let images = pod.new_images().await;
    let image = pod.stand.ims.get(&format!("v3/images/{}", images[0])).await;
    assert!(image["link"]["path"].is_string(), "{image}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_that_cannot_be_told_keeps_its_image() {
    let pod = Pod::start().await;
    pod.records.lock().unwrap().refuse = Some(("success", 503));
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    pod.touch("complete");
    agent.ends(4, &SUCCEEDED[..3], &[UNTOLD, "503"]).await;
    pod.assert_image().await;
}

/// A pod whose IMS wants tokens.
async fn guarded() -> Pod {
    let mut pod = Pod::start().await;
    pod.records.lock().unwrap().guarded = true;
    pod.vars.insert("OAUTH_CLIENT_ID", "admin-client".into());
    pod.vars.insert("OAUTH_CLIENT_SECRET", "5ec4e7".into());
    pod.vars.insert("OAUTH_CLIENT_ENDPOINT", format!("{}/token", pod.ims.url()));
    pod
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_while_the_user_works_is_replaced() {
    let pod = guarded().await;
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    {
        let mut records = pod.records.lock().unwrap();
        records.revoked = records.tokens;
    }
    pod.touch("complete");
    agent.ends(0, &SUCCEEDED, &[]).await;
    assert_eq!(pod.records.lock().unwrap().tokens, 2, "one token before, one after");
    pod.assert_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_refused_end_the_job_and_stay_secret() {
    let pod = guarded().await;
    pod.ims.fail("POST /token", Fault::Status(401), ALWAYS);
    pod.run().ends(4, &[], &["/token", "401", UNTOLD]).await;
    let log = std::fs::read_to_string(pod.stand.dir.path().join("run.err")).unwrap();
    assert!(!log.contains("5ec4e7"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_cannot_be_read_end_the_job() {
    let mut pod = Pod::start().await;
    let dir = pod.stand.dir.path().join("oauth");
    std::fs::create_dir(&dir).unwrap();
    pod.vars.insert("OAUTH_CONFIG_DIR", dir.display().to_string());
    pod.run().ends(4, &[], &["cannot read the OAuth credentials", "endpoint"]).await;
    assert_eq!(pod.ims.count("") + pod.s3.count(""), 0);
}
