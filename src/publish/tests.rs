//! Publishing against an IMS and a store that keep to the contract, and some that fail midway.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::Response;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::journal::Journal;
use super::manifest::{Manifest, SIZE_LIMIT};
use super::*;
use ims_client::Arch;
use ims_client::{Client, Config};
use net::Trust;
use net::testing::{QUICK, Seen, Server, answer, json as json_answer};
use s3_client::Object;
use s3_client::testing::{BUCKET, Fault, Lab};

/// What was asked of IMS and store, in order.
type Log = Arc<Mutex<Vec<String>>>;

/// An IMS, a store, and one log of both.
struct Site {
    log: Log,
    ims: Client,
    lab: Lab,
    cancel: CancellationToken,
    rootfs: tempfile::NamedTempFile,
    directory: tempfile::TempDir,
}

impl Site {
    /// `fault` is asked for each request, by its line (`PUT /boot-images/1/kernel`).
    async fn start(fault: impl Fn(&str) -> Option<Response> + Send + Sync + 'static) -> Self {
        let (log, fault) = (Log::default(), Arc::new(fault));
        let note = |log: &Log, seen: &Seen| log.lock().unwrap().push(seen.line());
        let (ims_log, ims_fault) = (log.clone(), fault.clone());
        let server = Server::start(move |_, seen| {
            note(&ims_log, &seen);
            ims_fault(&seen.line()).unwrap_or_else(|| ims_answer(&seen))
        })
        .await;
        let store_log = log.clone();
        let lab = Lab::start(move |_, seen| {
            if seen.method != "HEAD" && seen.method != "GET" {
                note(&store_log, seen);
            }
            fault(&seen.line()).map_or(Fault::None, Fault::Refused)
        })
        .await;
        let ims = client(&server);
        let mut rootfs = tempfile::NamedTempFile::new().unwrap();
        rootfs.write_all(b"squashfs").unwrap();
        let directory = tempfile::tempdir().unwrap();
        Self { log, ims, lab, cancel: CancellationToken::new(), rootfs, directory }
    }

    async fn publish(&self, parameters: bool) -> Result<Published, Error> {
        let file = |text: &str| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        };
        let boot = boot::Files {
            kernel: Some(file("kernel")),
            initrd: Some(file("initrd")),
            parameters: parameters.then(|| file("quiet")),
            debug_kernel: None,
        };
        let request = Request {
            image_name: "img".to_owned(),
            arch: Arch::X86_64,
            bucket: BUCKET.to_owned(),
            job_id: Some("24".to_owned()),
            rootfs: self.rootfs.path().to_owned(),
            reuse: None,
            boot,
            changes: Some(self.rootfs.path().to_owned()),
            provenance: Some(self.rootfs.path().to_owned()),
            journal: self.journal(),
        };
        publish(&self.ims, &self.lab.store, request, &self.cancel).await
    }

    fn journal(&self) -> Journal {
        Journal::at(self.directory.path().join("publication.json"))
    }

    /// The error of a publication of which nothing may be left.
    async fn fails(&self) -> Error {
        let error = self.publish(false).await.unwrap_err();
        assert!(self.log().iter().any(|line| line == "DELETE /images/1"), "{:?}", self.log());
        assert!(self.lab.keys().await.is_empty(), "objects are left");
        assert_eq!(self.journal().load().unwrap(), None);
        error
    }

    fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

fn client(server: &Server) -> Client {
    Client::new(Config {
        base: server.url.clone(),
        trust: Trust::System,
        oauth: None,
        timeout: Duration::from_secs(20),
        policy: QUICK,
    })
    .unwrap()
}

fn ims_answer(seen: &Seen) -> Response {
    let body: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    match seen.line().as_str() {
        "DELETE /images/1" => answer(204, ""),
        "PATCH /jobs/24" => json_answer(
            200,
            json!({"id": "24", "job_type": "customize", "artifact_id": "0",
                "resultant_image_id": body["resultant_image_id"]}),
        ),
        "POST /images" | "PATCH /images/1" => json_answer(
            201,
            json!({"id": "1", "name": "img", "arch": "x86_64", "link": body["link"],
                "created": "2026-11-21T00:00:00"}),
        ),
        _ => answer(404, ""),
    }
}

#[tokio::test]
async fn every_step_comes_in_the_order_of_the_contract() {
    let site = Site::start(|_| None).await;
    let published = site.publish(true).await.unwrap();
    assert_eq!(
        site.log(),
        [
            "POST /images",
            "PUT /boot-images/1/rootfs",
            "PUT /boot-images/1/kernel",
            "PUT /boot-images/1/initrd",
            "PUT /boot-images/1/boot_parameters",
            "PUT /boot-images/1/changes.json",
            "PUT /boot-images/1/provenance.json",
            "PUT /boot-images/1/manifest.json",
            "PATCH /images/1",
            "PATCH /jobs/24",
        ]
    );
    let object = Object::new(BUCKET, "1/manifest.json");
    let json = site.lab.store.get_bytes(&object, SIZE_LIMIT, &site.cancel).await.unwrap();
    let manifest = Manifest::parse(&json).unwrap();
    assert_eq!(manifest.artifacts, published.artifacts);
    let types: Vec<_> =
        manifest.artifacts.iter().map(|a| a.media_type.rsplit_once("image.").unwrap().1).collect();
    assert_eq!(types, ["rootfs.squashfs", "kernel", "initrd", "parameters.boot"]);
    assert_eq!(published.image.link.as_ref(), Some(&published.manifest.link));
    assert_eq!(published.job.unwrap().resultant_image_id.as_deref(), Some("1"));

    let head = site.lab.store.head(&object, &site.cancel).await.unwrap();
    assert_eq!(head.metadata["x-shasta-ims-image-name"], "img");
    assert_eq!(head.metadata["x-shasta-ims-image-id"], "1");
    assert_eq!(head.metadata["x-shasta-ims-job-id"], "24");
    assert_eq!(head.metadata["md5sum"], published.manifest.md5);
}

#[tokio::test]
async fn an_upload_that_fails_for_good_is_rolled_back_whole() {
    let dead = |line: &str| line.ends_with("/initrd").then(|| answer(503, ""));
    let site = Site::start(dead).await;
    let error = site.fails().await;
    assert!(matches!(error, Error::Upload { what: "initrd", .. }), "{error}");
    assert!(!site.log().iter().any(|line| line.starts_with("PATCH")), "{:?}", site.log());
}

#[tokio::test]
async fn a_link_that_is_refused_is_rolled_back_whole() {
    let site = Site::start(|line| (line == "PATCH /images/1").then(|| answer(422, "no"))).await;
    let error = site.fails().await;
    assert!(matches!(error, Error::Link { .. }), "{error}");
    assert!(!site.log().iter().any(|line| line == "PATCH /jobs/24"));
}

#[tokio::test]
async fn a_roll_back_is_tried_again_while_the_service_restarts() {
    let deletes = Mutex::new(0);
    let site = Site::start(move |line| {
        let mut deletes = deletes.lock().unwrap();
        match line {
            "PATCH /images/1" => Some(answer(422, "no")),
            "DELETE /images/1" if *deletes < 1 => {
                *deletes += 1;
                Some(answer(503, ""))
            }
            _ => None,
        }
    })
    .await;
    site.fails().await;
    assert_eq!(site.log().iter().filter(|line| *line == "DELETE /images/1").count(), 2);
}

#[tokio::test]
async fn a_linked_record_that_cannot_be_removed_keeps_its_objects() {
    let site = Site::start(|line| match line {
        "PATCH /images/1" => Some(answer(503, "")),
        "DELETE /images/1" => Some(answer(403, "")),
        _ => None,
    })
    .await;
    let error = site.publish(false).await.unwrap_err();
    assert!(matches!(error, Error::Link { .. }), "{error}");
    assert_eq!(site.lab.keys().await.len(), 6);
}

#[tokio::test]
async fn an_image_that_is_linked_stays_whoever_cannot_be_told() {
    for status in [422, 503] {
        let site =
            Site::start(move |line| (line == "PATCH /jobs/24").then(|| answer(status, ""))).await;
        let error = site.publish(false).await.unwrap_err();
        assert!(matches!(error, Error::Result { .. }), "{error}");
        assert!(!site.log().iter().any(|line| line.starts_with("DELETE")), "{:?}", site.log());
        assert_eq!(site.lab.keys().await.len(), 6);
    }
}

#[tokio::test]
async fn a_result_that_is_set_is_a_success_although_the_answers_were_lost() {
    let site = Site::start(|line| match line {
        "PATCH /jobs/24" => Some(answer(504, "")),
        "GET /jobs/24" => Some(json_answer(
            200,
            json!({"id": "24", "job_type": "customize", "artifact_id": "0",
                "resultant_image_id": "1"}),
        )),
        _ => None,
    })
    .await;
    let published = site.publish(false).await.unwrap();
    assert_eq!(published.job.unwrap().resultant_image_id.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_link_that_is_set_is_not_rolled_back_although_the_answers_were_lost() {
    let link = Mutex::new(Value::Null);
    let server = Server::start(move |_, seen| {
        let mut link = link.lock().unwrap();
        match seen.line().as_str() {
            "PATCH /images/1" => {
                let body: Value = serde_json::from_slice(&seen.body).unwrap();
                *link = body["link"].clone();
                answer(504, "")
            }
            "GET /images/1" => json_answer(
                200,
                json!({"id": "1", "name": "img", "arch": "x86_64", "link": *link,
                    "created": "2026-11-21T00:00:00"}),
            ),
            _ => ims_answer(&seen),
        }
    })
    .await;
    let mut site = Site::start(|_| None).await;
    site.ims = client(&server);
    let published = site.publish(false).await.unwrap();
    assert_eq!(published.image.link, Some(published.manifest.link));
    assert!(!server.lines().contains(&"DELETE /images/1".to_owned()), "{:?}", server.lines());
}

#[tokio::test]
async fn a_record_whose_answer_is_given_up_at_a_stop_is_removed() {
    let stop = CancellationToken::new();
    let asked = stop.clone();
    let server = Server::start_async(move |_, seen| {
        let asked = asked.clone();
        Box::pin(async move {
            match seen.line().as_str() {
                "POST /images" => {
                    asked.cancel();
                    std::future::pending().await
                }
                "GET /images" => json_answer(
                    200,
                    json!([{"id": "1", "name": "img", "arch": "x86_64", "link": null,
                        "created": jiff::Timestamp::now().to_string()}]),
                ),
                _ => ims_answer(&seen),
            }
        })
    })
    .await;
    let mut site = Site::start(|_| None).await;
    (site.ims, site.cancel) = (client(&server), stop);
    let error = site.publish(false).await.unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert_eq!(server.lines(), ["POST /images", "GET /images", "DELETE /images/1"]);
}

#[tokio::test]
async fn cancelling_rolls_back_before_it_returns() {
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let mut site = Site::start(move |line| {
        if line.ends_with("/kernel") {
            stop.cancel();
        }
        None
    })
    .await;
    site.cancel = cancel;
    assert!(matches!(site.fails().await, Error::Cancelled));
}

#[tokio::test]
async fn a_record_that_is_made_while_cancelling_is_rolled_back_too() {
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let mut site = Site::start(move |line| {
        if line == "POST /images" {
            stop.cancel();
        }
        None
    })
    .await;
    site.cancel = cancel;
    assert!(matches!(site.fails().await, Error::Cancelled));
    assert_eq!(site.log(), ["POST /images", "DELETE /images/1"]);
}

#[tokio::test]
async fn without_a_record_there_is_nothing_to_roll_back() {
    let site = Site::start(|line| (line == "POST /images").then(|| answer(422, "no"))).await;
    let error = site.publish(false).await.unwrap_err();
    assert!(matches!(error, Error::Create(_)), "{error}");
    assert_eq!(site.log(), ["POST /images"]);
}
