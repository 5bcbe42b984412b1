//! The client against services that misbehave as real ones do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::*;
use crate::{Arch, Status};
use net::testing::{QUICK, Server, answer, cut_off, json as json_answer, trickle};
use net::{Policy, Trust};

fn never() -> CancellationToken {
    CancellationToken::new()
}

fn client(base: &Url, oauth: Option<OAuthConfig>) -> Client {
    let timeout = Duration::from_secs(20);
    Client::new(Config { base: base.clone(), trust: Trust::System, oauth, timeout, policy: QUICK })
        .unwrap()
}

fn job() -> Value {
    json!({"id": "24", "job_type": "customize", "artifact_id": "1", "status": "creating",
        "resultant_image_id": null})
}

fn image(id: &str, created: &str) -> Value {
    json!({"id": id, "name": "img", "link": null, "arch": "x86_64", "created": created,
        "metadata": {}})
}

/// A time without a zone, as IMS writes it.
fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

/// A token endpoint that issues `t0`, `t1`, ... with the given lifetime.
async fn token_endpoint(expires_in: f64) -> (Server, OAuthConfig) {
    let server = Server::start(move |number, _| {
        json_answer(
            200,
            json!({"access_token": format!("t{number}"), "expires_in": expires_in,
                "token_type": "bearer"}),
        )
    })
    .await;
    let config = OAuthConfig {
        client_id: "admin-client".to_owned(),
        client_secret: "geheim".into(),
        endpoint: server.url.join("token").unwrap(),
    };
    (server, config)
}

#[tokio::test]
async fn one_token_serves_many_requests_at_once() {
    let (tokens, oauth) = token_endpoint(3600.0).await;
    let ims = Server::start(|_, seen| match seen.header("authorization") {
        "Bearer t0" => json_answer(200, job()),
        _ => answer(401, ""),
    })
    .await;
    let client = client(&ims.url, Some(oauth));
    let jobs = (0..10).map(|_| async { client.job("24", &never()).await.unwrap() });
    futures::future::join_all(jobs).await;
    let asked = tokens.seen();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].body,
        "grant_type=client_credentials&client_id=admin-client&client_secret=geheim"
    );
}

#[tokio::test]
async fn a_token_is_replaced_when_its_time_is_over_and_when_it_is_refused() {
    let (tokens, oauth) = token_endpoint(0.0).await;
    let ims = Server::start(|_, _| json_answer(200, job())).await;
    let short = client(&ims.url, Some(oauth));
    short.job("24", &never()).await.unwrap();
    short.job("24", &never()).await.unwrap();
    assert_eq!(tokens.seen().len(), 2);

    let (_tokens, oauth) = token_endpoint(3600.0).await;
    let ims = Server::start(|_, seen| match seen.header("authorization") {
        "Bearer t1" => json_answer(200, job()),
        _ => answer(401, ""),
    })
    .await;
    client(&ims.url, Some(oauth)).job("24", &never()).await.unwrap();
    assert_eq!(ims.seen().len(), 2);
}

#[tokio::test]
async fn a_service_that_refuses_every_token_is_not_asked_for_ever() {
    let (tokens, oauth) = token_endpoint(3600.0).await;
    let ims = Server::start(|_, _| answer(401, "")).await;
    let error = client(&ims.url, Some(oauth)).job("24", &never()).await.unwrap_err();
    assert_eq!(error.status(), Some(401));
    assert_eq!((ims.seen().len(), tokens.seen().len()), (2, 2));
}

#[tokio::test]
async fn an_endpoint_that_wants_the_credentials_in_the_header_gets_them_there() {
    let endpoint = Server::start(|_, seen| match seen.header("authorization") {
        "Basic YWRtaW4tY2xpZW50OmdlaGVpbQ==" => json_answer(200, json!({"access_token": "t"})),
        _ => json_answer(401, json!({"error": "invalid_client"})),
    })
    .await;
    let oauth = OAuthConfig {
        client_id: "admin-client".to_owned(),
        client_secret: "geheim".into(),
        endpoint: endpoint.url.clone(),
    };
    let ims = Server::start(|_, _| json_answer(200, job())).await;
    client(&ims.url, Some(oauth)).job("24", &never()).await.unwrap();
}

#[tokio::test]
async fn a_token_in_a_file_is_sent_and_read_anew_when_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "old\n").unwrap();
    let ims = Server::start({
        let file = file.clone();
        move |_, seen| match seen.header("authorization") {
            "Bearer new" => json_answer(200, job()),
            // Replaced, as a standalone without its file makes a new one.
            _ => {
                std::fs::write(&file, "new\n").unwrap();
                answer(401, "")
            }
        }
    })
    .await;
    let client = client(&ims.url, None).with_token_file(file.clone());
    client.job("24", &never()).await.unwrap();
    assert_eq!(ims.seen().len(), 2);

    let missing = client.clone().with_token_file(dir.path().join("missing"));
    let error = missing.job("24", &never()).await.unwrap_err();
    assert!(matches!(error, Error::TokenFile { .. }), "{error}");
    std::fs::write(&file, "two\nlines\n").unwrap();
    assert!(client.with_token_file(file).job("24", &never()).await.is_err());
    assert_eq!(ims.seen().len(), 2, "nothing is sent without a token");
}

#[tokio::test]
async fn gateways_that_are_restarting_are_waited_for_and_then_given_up() {
    let ims = Server::start(|number, _| match number {
        0 => answer(502, "<html>"),
        1 => answer(503, ""),
        2 => json_answer(200, job()).map(|_| cut_off("{\"id\":")),
        _ => json_answer(200, job()),
    })
    .await;
    client(&ims.url, None).set_job_status("24", Status::Error, &never()).await.unwrap();
    let seen = ims.seen();
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[3].line(), "PATCH /jobs/24");
    assert_eq!(seen[3].body, r#"{"status":"error"}"#);

    let ims = Server::start(|_, _| answer(503, "upstream gone")).await;
    let error = client(&ims.url, None).job("24", &never()).await.unwrap_err().to_string();
    assert!(error.contains("/jobs/24: IMS answered 503 upstream gone"), "{error}");
    assert_eq!(ims.seen().len(), QUICK.attempts as usize);
}

#[tokio::test]
async fn a_service_that_stumbles_is_asked_again() {
    for status in [408, 429, 500] {
        let ims = Server::start(move |number, _| match number {
            0 => answer(status, ""),
            _ => json_answer(200, job()),
        })
        .await;
        client(&ims.url, None).set_job_status("24", Status::WaitingOnUser, &never()).await.unwrap();
    }
}

#[tokio::test]
async fn a_lost_answer_costs_one_try_and_not_the_job() {
    let ims = Server::start_async(|number, _| {
        Box::pin(async move {
            if number == 0 {
                std::future::pending::<()>().await;
            }
            json_answer(200, job())
        })
    })
    .await;
    // As for IMS_PYTHON_HELPER_TIMEOUT: the one try takes all of the time.
    let policy = Policy::within(Duration::from_millis(500));
    let client = client(&ims.url, None).with_policy(policy);
    client.set_job_status("24", Status::WaitingOnUser, &never()).await.unwrap();
    assert_eq!(ims.seen().len(), 2);
}

#[tokio::test]
async fn a_record_or_a_token_that_trickles_is_given_up() {
    let slow = || answer(200, trickle(job().to_string()));
    let ims = Server::start(move |_, _| slow()).await;
    let limit = Duration::from_millis(300);
    let policy = Policy { deadline: limit, answer: limit, ..QUICK };
    let (tokens, oauth) = token_endpoint(3600.0).await;
    let trickling = OAuthConfig { endpoint: ims.url.clone(), ..oauth };
    for oauth in [None, Some(trickling)] {
        let client = client(&ims.url, oauth).with_policy(policy);
        let error = client.job("24", &never()).await.unwrap_err();
        assert!(error.is_transient(), "{}", linux::error::chain(&error));
    }
    assert_eq!(ims.seen().len(), 4, "each was tried twice");
    assert_eq!(tokens.seen().len(), 0);
}

#[tokio::test]
async fn what_must_arrive_is_sent_after_a_stop_too() {
    let stop = never();
    let told = stop.clone();
    let ims = Server::start(move |number, _| {
        told.cancel();
        if number == 0 { answer(503, "") } else { json_answer(200, job()) }
    })
    .await;
    let client = client(&ims.url, None);
    let tell =
        |ims: Client, stop| async move { ims.set_job_status("24", Status::Error, &stop).await };
    client.retry_past_shutdown(&stop, tell).await.unwrap();
    assert_eq!(ims.seen().len(), 2);
    client.retry_past_shutdown(&stop, tell).await.unwrap();
    assert_eq!(ims.seen().len(), 3);
}

#[tokio::test]
async fn patience_lasts_as_long_as_the_site_says() {
    let ims = Server::start(|_, _| answer(503, "")).await;
    let hasty = Policy { attempts: u32::MAX, deadline: Duration::ZERO, ..QUICK };
    let timeout = Duration::from_millis(300);
    let config =
        Config { base: ims.url.clone(), trust: Trust::System, oauth: None, timeout, policy: hasty };
    let client = Client::new(config).unwrap();
    let (start, stop) = (std::time::Instant::now(), never());
    client
        .with_long_deadline()
        .set_job_status("24", Status::WaitingOnUser, &stop)
        .await
        .unwrap_err();
    assert!(start.elapsed() > timeout / 2);
    assert!(ims.seen().len() > 10, "{} requests", ims.seen().len());
}

#[tokio::test]
async fn a_problem_is_told_in_the_words_of_ims_and_not_tried_again() {
    let ims = Server::start(|_, _| {
        json_answer(
            422,
            json!({"status": 422, "title": "Unprocessable Entity", "detail": "Bad.",
            "errors": {"resultant_image_id": ["Not a valid UUID."]}}),
        )
    })
    .await;
    let error = client(&ims.url, None).set_job_result("24", "nope", &never()).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.ends_with("422 Unprocessable Entity: Bad.; resultant_image_id: Not a valid UUID."),
        "{text}"
    );
    assert_eq!(ims.seen().len(), 1);
}

#[tokio::test]
async fn the_base_may_have_a_path_and_ids_cannot_leave_it() {
    let ims = Server::start(|_, _| json_answer(200, job())).await;
    for base in ["apis/ims", "apis/ims/"] {
        let client = client(&ims.url.join(base).unwrap(), None);
        client.job("../images", &never()).await.unwrap();
    }
    assert_eq!(ims.lines(), ["GET /apis/ims/jobs/..%2Fimages"; 2]);
}

/// An IMS that creates a record and, if asked to, sends no response.
async fn forgetful(makes: bool, listed: Vec<Value>) -> Server {
    let made = Arc::new(AtomicBool::new(false));
    Server::start(move |number, seen| match (seen.line().as_str(), number) {
        ("POST /images", 0) => {
            made.store(makes, Ordering::Relaxed);
            answer(504, "")
        }
        ("POST /images", _) => json_answer(201, image("second", &now())),
        _ => {
            let mut images = listed.clone();
            if made.load(Ordering::Relaxed) {
                images.push(image("first", &now()));
            }
            json_answer(200, Value::Array(images))
        }
    })
    .await
}

#[tokio::test]
async fn a_record_whose_answer_was_lost_is_found_and_not_made_twice() {
    let linked = json!({"id": "3", "name": "img", "arch": "x86_64", "created": now(),
        "link": {"path": "s3://b/k", "etag": "", "type": "s3"}});
    let others = vec![image("old", "2021-03-29T15:22:50.039151+00:00"), linked];
    let ims = forgetful(true, others).await;
    let made = client(&ims.url, None).create_image("img", Arch::X86_64, &never()).await.unwrap();
    assert_eq!(made.id, "first");
    assert_eq!(ims.lines(), ["POST /images", "GET /images"]);
    assert_eq!(ims.seen()[0].body, r#"{"arch":"x86_64","name":"img"}"#);
}

#[tokio::test]
async fn a_record_that_was_not_made_is_made_by_the_second_try() {
    let ims = forgetful(false, vec![image("old", "2021-03-29T15:22:50.039151")]).await;
    let made = client(&ims.url, None).create_image("img", Arch::X86_64, &never()).await.unwrap();
    assert_eq!(made.id, "second");
    assert_eq!(ims.lines(), ["POST /images", "GET /images", "POST /images"]);
}

#[tokio::test]
async fn an_image_is_linked_and_deleted_without_its_artifacts() {
    let ims = Server::start(|_, seen| match seen.method.as_str() {
        "DELETE" => answer(404, ""),
        _ => json_answer(200, image("1", &now())),
    })
    .await;
    let client = client(&ims.url, None);
    client.set_image_link("1", &Link::s3("s3://b/1/manifest.json", "e"), &never()).await.unwrap();
    client.delete_image("1", &never()).await.unwrap();
    let seen = ims.seen();
    let link: Value = serde_json::from_slice(&seen[0].body).unwrap();
    assert_eq!(
        link,
        json!({"link": {"path": "s3://b/1/manifest.json", "etag": "e", "type": "s3"}})
    );
    assert_eq!((seen[1].line().as_str(), seen[1].query()), ("DELETE /images/1", "cascade=false"));
}

#[tokio::test]
async fn cancelling_ends_the_waiting() {
    let ims = Server::start(|_, _| answer(503, "")).await;
    let cancel = never();
    cancel.cancel();
    let error = client(&ims.url, None).job("24", &cancel).await.unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
}
