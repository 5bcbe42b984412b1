//! A running `ims-job-agent standalone`, with its own store or with a real Ceph gateway.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use net::Trust;
use s3_client::{self as s3, Object, Store};
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::ims::{self, Ims};
use super::process::Process;
use super::ssh::Key;
use super::{SOON, agent, eventually, free_port, lab};

/// Longest wait for a job's next status: packing a real root takes minutes on two busy cores.
const PACKED: Duration = Duration::from_secs(900);

/// Where objects are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Objects {
    Embedded,
    /// The gateway that `scripts/test` has started.
    Ceph,
}

/// A standalone server in a directory of its own.
pub struct Stand {
    pub ims: Ims,
    pub s3: s3::Config,
    pub store: Store,
    pub key: Key,
    pub dir: TempDir,
    server: Option<Process>,
    ims_port: u16,
    s3_port: u16,
    objects: Objects,
    vars: Vec<(&'static str, String)>,
}

impl Stand {
    pub async fn start(objects: Objects) -> Self {
        Self::start_with(objects, Vec::new()).await
    }

    /// With more variables in the server's environment.
    pub async fn start_with(objects: Objects, vars: Vec<(&'static str, String)>) -> Self {
        let dir = tempfile::Builder::new().prefix("ims-stand").tempdir().unwrap();
        let (ims_port, s3_port) = (free_port(), free_port());
        let s3 = match objects {
            Objects::Embedded => {
                store_config(&format!("http://127.0.0.1:{s3_port}"), "test-key", "test-secret")
            }
            Objects::Ceph => store_config(
                &lab("IMS_LAB_S3_ENDPOINT"),
                &lab("IMS_LAB_S3_ACCESS_KEY"),
                &lab("IMS_LAB_S3_SECRET_KEY"),
            ),
        };
        let mut stand = Self {
            ims: Ims::new(format!("http://127.0.0.1:{ims_port}")),
            store: Store::new(s3.clone()).unwrap(),
            s3,
            key: Key::make(dir.path(), "ed25519"),
            dir,
            server: None,
            ims_port,
            s3_port,
            objects,
            vars,
        };
        stand.restart().await;
        stand
    }

    /// Starts the server, again if it ran before; its records are those of its directory.
    pub async fn restart(&mut self) {
        self.stop().await;
        use secrecy::ExposeSecret;
        let mut command = Command::new(agent());
        command
            .arg("standalone")
            .args(["--data", "data"])
            .current_dir(self.dir.path())
            .args(["--ims-listen", &format!("127.0.0.1:{}", self.ims_port)])
            .env("S3_ACCESS_KEY", &self.s3.access_key)
            .env("S3_SECRET_KEY", self.s3.secret_key.expose_secret())
            .env("LOG_LEVEL", "DEBUG")
            .envs(self.vars.iter().cloned());
        match self.objects {
            Objects::Embedded => {
                command.args(["--s3-listen", &format!("127.0.0.1:{}", self.s3_port)])
            }
            Objects::Ceph => command.args(["--s3-endpoint", self.s3.endpoint.as_str()]),
        };
        self.server = Some(Process::start(command, self.dir.path(), "standalone"));
        let ready = format!("{}/healthz/ready", self.ims.base);
        eventually("standalone is ready", SOON, async || {
            reqwest::get(&ready).await.ok().filter(|answer| answer.status().is_success())
        })
        .await;
        self.ims = self.ims.with_token(self.token());
    }

    /// Where the server keeps the token that it has made.
    pub fn token_file(&self) -> PathBuf {
        self.data().join("token")
    }

    pub fn token(&self) -> String {
        std::fs::read_to_string(self.token_file()).unwrap().trim().to_owned()
    }

    /// What an agent of a test's own logs in to IMS with.
    pub fn oauth(&self) -> [(&'static str, String); 3] {
        [
            ("OAUTH_CLIENT_ID", "test".into()),
            ("OAUTH_CLIENT_SECRET", self.token()),
            ("OAUTH_CLIENT_ENDPOINT", format!("{}/oauth/token", self.ims.base)),
        ]
    }

    /// A command of the program, in the stand's directory, that finds the stand by the variables of a job,
    /// and its token by itself.
    pub fn command(&self, arguments: &[&str]) -> Command {
        use secrecy::ExposeSecret;
        let mut command = Command::new(agent());
        command
            .args(arguments)
            .current_dir(self.dir.path())
            .env("IMS_URL", &self.ims.base)
            .env("S3_ENDPOINT", self.s3.endpoint.as_str())
            .env("S3_ACCESS_KEY", &self.s3.access_key)
            .env("S3_SECRET_KEY", self.s3.secret_key.expose_secret());
        command
    }

    pub async fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.signal(nix::sys::signal::Signal::SIGTERM);
            server.wait(SOON).await;
        }
    }

    /// As a crash of the server does; its jobs die with it.
    pub async fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.signal(nix::sys::signal::Signal::SIGKILL);
            server.wait(SOON).await;
        }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn server(&mut self) -> &mut Process {
        self.server.as_mut().expect("the server runs")
    }

    /// Uploads a squashfs and boot files as an image record, as the import procedure does.
    pub async fn import(&self, name: &str, image: &Path) -> String {
        let id = ims::id(&self.ims.post("v3/images", json!({"name": name})).await);
        let rootfs = self.put(&format!("{id}/rootfs"), image).await;
        let manifest = json!({
            "version": "1.0",
            "created": "2026-01-02 03:04:05.678901",
            "artifacts": [{
                "link": {"path": format!("s3://boot-images/{id}/rootfs"), "etag": rootfs.etag, "type": "s3"},
                "type": "application/vnd.cray.image.rootfs.squashfs",
                "md5": rootfs.md5,
            }],
        });
        let path = self.dir.path().join(format!("{id}.manifest.json"));
        std::fs::write(&path, manifest.to_string()).unwrap();
        let manifest = self.put(&format!("{id}/manifest.json"), &path).await;
        let link = json!({"path": format!("s3://boot-images/{id}/manifest.json"), "etag": manifest.etag, "type": "s3"});
        self.ims.patch(&format!("v3/images/{id}"), json!({"link": link})).await;
        id
    }

    pub async fn put(&self, key: &str, path: &Path) -> s3::Uploaded {
        self.put_to(&Object::new("boot-images", key), path).await
    }

    pub async fn put_to(&self, object: &Object, path: &Path) -> s3::Uploaded {
        let file = std::fs::File::open(path).unwrap();
        self.store
            .put_file(object, file, &s3::put::Options::default(), &(), &CancellationToken::new())
            .await
            .unwrap()
    }

    pub async fn get(&self, path: &str) -> Vec<u8> {
        let object: Object = path.parse().unwrap();
        self.store.get_bytes(&object, 4 << 30, &CancellationToken::new()).await.unwrap()
    }

    pub async fn head(&self, path: &str) -> s3::Head {
        let object: Object = path.parse().unwrap();
        self.store.head(&object, &CancellationToken::new()).await.unwrap()
    }

    /// Every key of the bucket of images below `prefix`.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        self.store.list("boot-images", prefix, &CancellationToken::new()).await.unwrap()
    }

    /// Posts a customize job for `image` and gives its id.
    pub async fn customize(&self, image: &str, jail: bool) -> Job<'_> {
        let key = self.ims.add_public_key(&self.key.public).await;
        let record = self
            .ims
            .post(
                "v3/jobs",
                json!({
                    "job_type": "customize",
                    "artifact_id": image,
                    "public_key_id": key,
                    "image_root_archive_name": "customized",
                    "ssh_containers": [{"name": "customize", "jail": jail}],
                }),
            )
            .await;
        Job { stand: self, id: ims::id(&record), port: ssh_port(&record) }
    }

    /// Makes the record of a customize job for `image` as it is before an agent begins, for an agent that
    /// the test starts itself. Gives its id.
    pub async fn job_without_agent(&mut self, image: &str) -> String {
        let job = self.customize(image, true).await;
        job.reaches("waiting_on_user").await;
        self.key.exec(job.port, "touch /tmp/failed");
        job.reaches("error").await;
        let id = job.id.clone();
        // Started again, standalone has nothing more to do with a job that has ended.
        self.restart().await;
        self.ims.patch(&format!("v3/jobs/{id}"), json!({"status": "creating"})).await;
        id
    }

    /// Registers an archive as a recipe, as the procedures of IMS do.
    pub async fn recipe(&self, archive: &Path, values: &[(&str, &str)]) -> String {
        let pair = |(key, value): &(&str, &str)| json!({"key": key, "value": value});
        let values: Vec<_> = values.iter().map(pair).collect();
        let record = json!({
            "name": "recipe",
            "recipe_type": "kiwi-ng",
            "linux_distribution": "sles15",
            "template_dictionary": values,
        });
        let id = ims::id(&self.ims.post("v3/recipes", record).await);
        let object = Object::new("ims", format!("recipes/{id}/recipe.tar.gz"));
        let uploaded = self.put_to(&object, archive).await;
        let link = json!({"path": object.to_string(), "etag": uploaded.etag, "type": "s3"});
        self.ims.patch(&format!("v3/recipes/{id}"), json!({"link": link})).await;
        id
    }

    /// Posts a create job for `recipe`; without `debug` it has no SSH server, and its port is 0.
    pub async fn create(&self, recipe: &str, debug: bool) -> Job<'_> {
        let key = self.ims.add_public_key(&self.key.public).await;
        let job = json!({
            "job_type": "create",
            "artifact_id": recipe,
            "public_key_id": key,
            "image_root_archive_name": "created",
            "enable_debug": debug,
        });
        let record = self.ims.post("v3/jobs", job).await;
        let port = if debug { ssh_port(&record) } else { 0 };
        Job { stand: self, id: ims::id(&record), port }
    }
}

/// A job that a standalone server runs.
pub struct Job<'a> {
    stand: &'a Stand,
    pub id: String,
    /// Where its SSH server listens on 127.0.0.1.
    pub port: u16,
}

impl Job<'_> {
    pub async fn record(&self) -> Value {
        self.stand.ims.job(&self.id).await
    }

    /// Waits for a status; a terminal status instead is a failure that shows the job's log.
    pub async fn reaches(&self, status: &str) -> Value {
        eventually(&format!("job status {status}"), PACKED, async || {
            let record = self.record().await;
            let found = record["status"].as_str().unwrap().to_owned();
            let ended = found != status && matches!(found.as_str(), "success" | "error");
            assert!(!ended, "the job is {found} and not {status}:\n{}", self.log());
            (found == status).then_some(record)
        })
        .await
    }

    /// The job's log, as standalone keeps it.
    pub fn log(&self) -> String {
        let dir = self.stand.data().join("jobs").join(&self.id);
        let mut text = String::new();
        for name in ["log", "result.json"] {
            text += &std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        }
        text
    }
}

fn ssh_port(record: &Value) -> u16 {
    let info = &record["ssh_containers"][0]["connection_info"];
    assert_eq!(info["customer_access"]["host"], "127.0.0.1", "{record}");
    assert_eq!(info["cluster.local"], info["customer_access"], "both names lead to the job");
    info["customer_access"]["port"].as_u64().unwrap() as u16
}

fn store_config(endpoint: &str, access_key: &str, secret_key: &str) -> s3::Config {
    s3::Config {
        endpoint: endpoint.parse().unwrap(),
        access_key: access_key.into(),
        secret_key: SecretString::from(secret_key),
        trust: Trust::System,
        timeout: SOON,
    }
}
