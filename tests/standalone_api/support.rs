//! A standalone to test, with clients for both of its sides.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ims_job_agent::standalone::{Config, Error, Keys, S3Choice, Server};
use net::Trust;
use s3_client::{self as s3, Object, Store};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

pub const ACCESS: &str = "test-access";
pub const SECRET: &str = "test-secret-key";

pub struct Standalone {
    pub ims: Url,
    pub s3: Url,
    pub http: reqwest::Client,
    pub store: Store,
    data: PathBuf,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

pub fn loopback() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

pub fn config(data: &Path, agent: &Path) -> Config {
    let keys = Keys { access: ACCESS.into(), secret: SECRET.into() };
    Config {
        data: data.into(),
        ims_listen: loopback(),
        s3: S3Choice::Embedded { listen: loopback(), keys: Some(keys) },
        token_file: None,
        allowed_hosts: Vec::new(),
        allow_dkms: true,
        here: None,
        ca_cert: None,
        sessions: Default::default(),
        agent_binary: agent.into(),
    }
}

/// A shell script that stands in for the agent; the same for the same data directory. It does not lie
/// there: jobs do not see that.
pub fn agent(data: &Path, script: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = agent_path(data);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// Outside of the data directory, which jobs do not see.
pub fn agent_path(data: &Path) -> PathBuf {
    let name = data.to_str().unwrap().replace('/', "-");
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("agent{name}"))
}

impl Standalone {
    /// With an agent that waits to be ended.
    pub async fn start(data: &Path) -> Self {
        let agent = agent(data, "exec sleep 1000");
        Self::with(config(data, &agent)).await
    }

    pub async fn with(config: Config) -> Self {
        let data = config.data.clone();
        let server = Server::start(config).await.unwrap();
        let (ims, s3) = (server.ims().clone(), server.s3().clone());
        let token = server.token().clone();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(server.serve(shutdown.clone()));
        let store = Store::new(s3::Config {
            endpoint: s3.clone(),
            access_key: ACCESS.into(),
            secret_key: SECRET.into(),
            trust: Trust::System,
            timeout: Duration::from_secs(30),
        });
        let http = client_with(secrecy::ExposeSecret::expose_secret(&token));
        Self { ims, s3, http, store: store.unwrap(), data, shutdown, task }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{}", self.ims.as_str().trim_end_matches('/'), path)
    }

    pub fn job_dir(&self, id: &str) -> PathBuf {
        self.data.join("jobs").join(id)
    }

    /// Status and body; the body is null where there is none.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self.http.request(method.parse().unwrap(), self.url(path));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call("GET", path, None).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// POSTs something that must be taken; gives its id.
    pub async fn post(&self, path: &str, body: Value) -> String {
        let (status, body) = self.call("POST", path, Some(body)).await;
        assert_eq!(status, 201, "{path}: {body}");
        body["id"].as_str().unwrap().to_owned()
    }

    pub async fn put(&self, bucket: &str, key: &str, bytes: &[u8]) -> String {
        let (object, options) = (Object::new(bucket, key), Default::default());
        self.store.put_bytes(&object, bytes, &options, &token()).await.unwrap().etag
    }

    pub async fn keys(&self, bucket: &str) -> Vec<String> {
        self.store.list(bucket, "", &token()).await.unwrap()
    }

    pub async fn read(&self, bucket: &str, key: &str) -> Vec<u8> {
        self.store.get_bytes(&Object::new(bucket, key), 1 << 20, &token()).await.unwrap()
    }

    /// Uploads artifacts and a manifest of them; gives the link.
    pub async fn upload_image(&self, id: &str) -> Value {
        let mut artifacts = Vec::new();
        for (name, kind) in [("rootfs", "rootfs.squashfs"), ("kernel", "kernel")] {
            let key = format!("{id}/{name}");
            let etag = self.put("boot-images", &key, name.as_bytes()).await;
            artifacts.push(artifact(kind, &format!("s3://boot-images/{key}"), &etag));
        }
        self.upload_manifest(id, &manifest(artifacts)).await
    }

    pub async fn upload_manifest(&self, id: &str, manifest: &Value) -> Value {
        let key = format!("{id}/manifest.json");
        let etag = self.put("boot-images", &key, manifest.to_string().as_bytes()).await;
        json!({ "type": "s3", "path": format!("s3://boot-images/{key}"), "etag": etag })
    }

    /// An image record with artifacts, linked.
    pub async fn image(&self) -> String {
        let id = self.post("/v3/images", json!({ "name": "img" })).await;
        let link = self.upload_image(&id).await;
        let path = format!("/v3/images/{id}");
        let (status, body) = self.call("PATCH", &path, Some(json!({ "link": link }))).await;
        assert_eq!(status, 200, "{body}");
        id
    }

    /// A customize job of a fresh image; the answer of the POST.
    pub async fn job(&self) -> Value {
        let image = self.image().await;
        let key = json!({ "name": "k", "public_key": "ssh-ed25519 AAAA test" });
        let key = self.post("/v3/public-keys", key).await;
        let body = json!({
            "job_type": "customize", "artifact_id": image, "public_key_id": key,
            "image_root_archive_name": "result",
        });
        let (status, job) = self.call("POST", "/v3/jobs", Some(body)).await;
        assert_eq!(status, 201, "{job}");
        job
    }

    /// Waits until a job's status is this.
    pub async fn wait_for(&self, job: &str, status: &str) {
        let path = format!("/v3/jobs/{job}");
        until(async || self.get(&path).await["status"] == status).await;
    }
}

/// Sends this token, unless a request has another.
pub fn client_with(token: &str) -> reqwest::Client {
    let value = format!("Bearer {token}").parse().unwrap();
    let headers = [(reqwest::header::AUTHORIZATION, value)].into_iter().collect();
    reqwest::Client::builder().default_headers(headers).build().unwrap()
}

pub fn token() -> CancellationToken {
    CancellationToken::new()
}

pub fn artifact(kind: &str, path: &str, etag: &str) -> Value {
    json!({
        "type": format!("application/vnd.cray.image.{kind}"), "md5": etag,
        "link": { "type": "s3", "path": path, "etag": etag },
    })
}

pub fn manifest(artifacts: Vec<Value>) -> Value {
    json!({ "version": "1.0", "created": "2026-01-01 00:00:00.000000", "artifacts": artifacts })
}

/// Polls until the condition holds; 20 seconds are for a loaded machine.
pub async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let polled = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), polled).await.expect("it never came to that");
}

/// Whether a process runs; one that only waits to be reaped does not.
pub fn alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
}
