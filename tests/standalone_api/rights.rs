//! What a job's own token and S3 keys are good for, tried by a program in the agent's place.

use std::collections::HashMap;
use std::time::Duration;

use net::Trust;
use s3_client::{self as s3, Error, Object, Store};
use serde_json::{Value, json};

use crate::support::{
    Standalone, agent, artifact, client_with, config, manifest, token as never, until,
};

/// A job's side of standalone.
struct Inside {
    http: reqwest::Client,
    store: Store,
    base: String,
    id: String,
    image: String,
}

impl Inside {
    /// A job on an image of its own, and what the job knows.
    async fn start(standalone: &Standalone) -> Self {
        let job = standalone.job().await;
        let id = job["id"].as_str().unwrap().to_owned();
        let path = standalone.job_dir(&id).join("mnt/env");
        until(async || path.exists()).await;
        let env = std::fs::read_to_string(path).unwrap();
        let env: HashMap<_, _> = env.lines().filter_map(|line| line.split_once('=')).collect();
        let store = Store::new(s3::Config {
            endpoint: env["S3_ENDPOINT"].parse().unwrap(),
            access_key: env["S3_ACCESS_KEY"].into(),
            secret_key: env["S3_SECRET_KEY"].into(),
            trust: Trust::System,
            timeout: Duration::from_secs(30),
        });
        Self {
            http: client_with(env["OAUTH_CLIENT_SECRET"]),
            store: store.unwrap(),
            base: standalone.url(""),
            image: job["artifact_id"].as_str().unwrap().to_owned(),
            id,
        }
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.request(method.parse().unwrap(), url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or(Value::Null))
    }

    async fn status(&self, method: &str, path: &str, body: Option<Value>) -> u16 {
        self.call(method, path, body).await.0
    }

    async fn make_image(&self) -> String {
        let (status, image) = self.call("POST", "/images", Some(json!({ "name": "new" }))).await;
        assert_eq!(status, 201, "{image}");
        image["id"].as_str().unwrap().to_owned()
    }

    async fn get(&self, key: &str) -> u16 {
        outcome(self.store.get_bytes(&at(key), 1 << 20, &never()).await)
    }

    async fn put(&self, key: &str, bytes: &[u8]) -> u16 {
        outcome(self.store.put_bytes(&at(key), bytes, &Default::default(), &never()).await)
    }

    async fn delete(&self, key: &str) -> u16 {
        outcome(self.store.delete(&at(key), &never()).await)
    }

    async fn copy(&self, from: &str, to: &str) -> u16 {
        outcome(self.store.copy(&at(from), &at(to), &never()).await)
    }

    async fn list(&self, prefix: &str) -> u16 {
        outcome(self.store.list("boot-images", prefix, &never()).await)
    }
}

fn at(key: &str) -> Object {
    Object::new("boot-images", key)
}

/// 200, or the status with which it was refused.
fn outcome<T>(answer: Result<T, Error>) -> u16 {
    match answer {
        Ok(_) => 200,
        Err(Error::Refused { status, .. }) => status,
        Err(error) => panic!("{error:?}"),
    }
}

async fn start(dir: &std::path::Path) -> Standalone {
    let script = "env > /mnt/image/new; mv /mnt/image/new /mnt/image/env; exec sleep 1000";
    Standalone::with(config(dir, &agent(dir, script))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jobs_token_is_good_for_its_own_record_and_images_alone() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = start(dir.path()).await;
    let (job, other) = (Inside::start(&standalone).await, Inside::start(&standalone).await);
    let images = standalone.get("/v3/images").await;
    let (base, foreign) = (&job.image, &other.image);

    let patch = || Some(json!({ "status": "fetching_image" }));
    let key = json!({ "name": "k", "public_key": "ssh-ed25519 AAAA mine" });
    let more = json!({
        "job_type": "customize", "artifact_id": base, "public_key_id": base,
        "image_root_archive_name": "x", "ssh_containers": [{ "jail": false }],
    });
    for (method, path, body) in [
        ("DELETE", "/v2/images?cascade=true".to_owned(), None),
        ("DELETE", "/images".into(), None),
        ("DELETE", "/v3/images".into(), None),
        ("DELETE", format!("/images/{base}?cascade=false"), None),
        ("DELETE", format!("/v2/images/{foreign}?cascade=true"), None),
        ("PATCH", format!("/images/{base}"), Some(json!({ "arch": "aarch64" }))),
        ("GET", format!("/images/{foreign}"), None),
        ("GET", "/v3/deleted/images".into(), None),
        ("GET", "/jobs".into(), None),
        ("GET", format!("/v3/jobs/{}", other.id), None),
        ("PATCH", format!("/jobs/{}", other.id), patch()),
        ("DELETE", format!("/jobs/{}", other.id), None),
        ("DELETE", format!("/jobs/{}", job.id), None),
        ("PATCH", format!("/jobs/{}", job.id), Some(json!({ "resultant_image_id": foreign }))),
        ("POST", "/jobs".into(), Some(more)),
        ("POST", "/public-keys".into(), Some(key)),
        ("GET", "/public-keys".into(), None),
        ("GET", "/recipes".into(), None),
        ("GET", format!("/standalone/jobs/{}/host-keys", other.id), None),
        ("GET", "/apis/cfs/v3/configurations".into(), None),
        ("PUT", "/apis/cfs/v3/configurations/c".into(), Some(json!({ "layers": [] }))),
    ] {
        let (status, problem) = job.call(method, &path, body).await;
        assert_eq!(status, 403, "{method} {path}: {problem}");
        assert_eq!(problem["status"], 403, "a problem document");
    }
    assert_eq!(standalone.get("/v3/images").await, images);

    assert_eq!(job.status("GET", &format!("/v2/jobs/{}", job.id), None).await, 200);
    assert_eq!(job.status("PATCH", &format!("/jobs/{}", job.id), patch()).await, 200);
    assert_eq!(job.status("GET", &format!("/v3/images/{base}"), None).await, 200);
    let names = async || {
        let (_, list) = job.call("GET", "/images", None).await;
        let ids = list.as_array().unwrap().iter().map(|image| image["id"].clone());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(names().await, [json!(base)]);
    let mine = job.make_image().await;
    assert_eq!(names().await, [json!(base), json!(mine)]);
    assert_eq!(other.status("GET", &format!("/images/{mine}"), None).await, 403);
    let result = Some(json!({ "resultant_image_id": mine }));
    assert_eq!(job.status("PATCH", &format!("/jobs/{}", job.id), result).await, 200);
    // Whatever its manifest will list, nothing but the record goes.
    let mine = format!("/images/{mine}");
    assert_eq!(job.status("DELETE", &mine, None).await, 403);
    assert_eq!(job.status("DELETE", &format!("/v3{mine}"), None).await, 403);
    assert_eq!(job.status("DELETE", &format!("{mine}?cascade=false"), None).await, 204);

    let (status, _) = standalone.call("DELETE", &format!("/v3/jobs/{}", job.id), None).await;
    assert_eq!(status, 204);
    assert_eq!(job.status("GET", &format!("/jobs/{}", job.id), None).await, 401, "it has ended");
    assert_eq!(other.status("GET", &format!("/jobs/{}", other.id), None).await, 200);
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jobs_keys_are_good_for_its_own_objects_alone() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = start(dir.path()).await;
    let (job, other) = (Inside::start(&standalone).await, Inside::start(&standalone).await);
    let (base, foreign) = (&job.image, &other.image);
    let mine = job.make_image().await;

    assert_eq!(job.get(&format!("{base}/rootfs")).await, 200);
    assert_eq!(job.get(&format!("{base}/manifest.json")).await, 200);
    assert_eq!(job.put(&format!("{mine}/rootfs"), b"new").await, 200);
    assert_eq!(job.copy(&format!("{base}/rootfs"), &format!("{mine}/copy")).await, 200);
    assert_eq!(job.list(&format!("{mine}/")).await, 200);
    assert_eq!(job.delete(&format!("{mine}/copy")).await, 200);
    let probe = format!("ims-job-agent-probe/{}", job.id);
    assert_eq!(job.put(&probe, b"").await, 200);
    assert_eq!(job.delete(&probe).await, 200);

    for key in [format!("{foreign}/rootfs"), format!("ims-job-agent-probe/{}", other.id)] {
        assert_eq!(job.get(&key).await, 403, "{key}");
        assert_eq!(job.put(&key, b"x").await, 403, "{key}");
        assert_eq!(job.delete(&key).await, 403, "{key}");
        assert_eq!(job.copy(&key, &format!("{mine}/stolen")).await, 403, "{key}");
    }
    for key in ["rootfs", "kernel"] {
        assert_eq!(job.put(&format!("{base}/{key}"), b"x").await, 403);
        assert_eq!(job.delete(&format!("{base}/{key}")).await, 403);
        assert_eq!(job.copy(&format!("{mine}/rootfs"), &format!("{base}/{key}")).await, 403);
    }
    for prefix in ["", base, &mine, foreign, &format!("{foreign}/")] {
        assert_eq!(job.list(prefix).await, 403, "{prefix:?}");
    }
    assert_eq!(other.list(&format!("{mine}/")).await, 403);
    let keys = format!("{foreign}/");
    assert!(job.store.delete_prefix("boot-images", &keys, &never()).await.is_err());
    assert!(job.store.create_bucket("mine", &never()).await.is_err());
    assert_eq!(standalone.read("boot-images", &format!("{foreign}/rootfs")).await, b"rootfs");

    assert_eq!(standalone.call("DELETE", &format!("/jobs/{}", job.id), None).await.0, 204);
    assert_eq!(job.get(&format!("{base}/rootfs")).await, 403, "it has ended");
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_links_is_its_own_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = start(dir.path()).await;
    let (job, other) = (Inside::start(&standalone).await, Inside::start(&standalone).await);
    let mine = job.make_image().await;
    let rootfs = format!("{mine}/rootfs");
    assert_eq!(job.put(&rootfs, b"new").await, 200);
    let link = async |key: &str, lists: &str| {
        let path = format!("s3://boot-images/{lists}");
        let json = manifest(vec![artifact("rootfs.squashfs", &path, "e")]).to_string();
        assert_eq!(job.put(key, json.as_bytes()).await, 200);
        let link = json!({ "link": { "type": "s3", "path": format!("s3://boot-images/{key}") } });
        job.status("PATCH", &format!("/images/{mine}"), Some(link)).await
    };
    let manifest_key = format!("{mine}/manifest.json");
    // An owner who deletes the image would delete what it lists.
    assert_eq!(link(&manifest_key, &format!("{}/rootfs", other.image)).await, 422);
    let probe = format!("ims-job-agent-probe/{}", job.id);
    assert_eq!(link(&probe, &rootfs).await, 422);
    let body =
        json!({ "name": "x", "link": { "type": "s3", "path": "s3://boot-images/some/key" } });
    assert!(matches!(job.status("POST", "/images", Some(body)).await, 400 | 422));
    assert_eq!(link(&manifest_key, &rootfs).await, 200);
    for key in [&manifest_key, &rootfs] {
        assert_eq!(job.put(key, b"another").await, 403);
        assert_eq!(job.delete(key).await, 403);
        assert_eq!(job.get(key).await, 200);
    }
    // A publication that is withdrawn: the record first, then the objects.
    let path = format!("/images/{mine}?cascade=false");
    assert_eq!(job.status("DELETE", &path, None).await, 204);
    assert_eq!(job.delete(&rootfs).await, 200);
    standalone.stop().await;
}
