//! `configure` with real git and ansible on a real root, and the procedure of CFS on standalone.

mod bad_layers;
mod cfs;
mod layers;
mod repository;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::stand::{Objects, Stand};
use support::{agent, lab};

/// A standalone server with the lab's root as an image.
struct Bench {
    stand: Stand,
    image: String,
}

/// What a run of `configure` left.
struct Ran {
    code: i32,
    result: Value,
    log: String,
}

impl Bench {
    async fn start() -> Self {
        let stand = Stand::start(Objects::Embedded).await;
        let image = stand.import("lab", Path::new(&lab("IMS_LAB_ROOT"))).await;
        Self { stand, image }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.stand.dir.path().join(name)
    }

    fn work_dir(&self) -> PathBuf {
        self.path("work")
    }

    /// `configure` of these layers, with arguments.
    fn command(&self, layers: &Value, arguments: &[&str]) -> Command {
        use secrecy::ExposeSecret;
        let file = self.path("conf.json");
        std::fs::write(&file, json!({"name": "conf", "layers": layers}).to_string()).unwrap();
        let mut command = Command::new(agent());
        command
            .args(["configure", "--format", "json", "--image", &self.image, "--configuration"])
            .arg(file)
            .arg("--work-dir")
            .arg(self.work_dir())
            .args(["--group", "Compute"])
            .args(arguments)
            .env("IMS_URL", &self.stand.ims.base)
            .env("S3_ENDPOINT", self.stand.s3.endpoint.as_str())
            .env("S3_ACCESS_KEY", &self.stand.s3.access_key)
            .env("S3_SECRET_KEY", self.stand.s3.secret_key.expose_secret());
        command
    }

    async fn configure(&self, layers: &Value, arguments: &[&str]) -> Ran {
        let mut command = self.command(layers, arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        self.assert_clean();
        Ran::new(&output)
    }

    /// Nothing of a run is mounted or running any more.
    fn assert_clean(&self) {
        let work = self.work_dir().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&work), "{mounts}");
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let root = std::fs::read_link(entry.path().join("root")).unwrap_or_default();
            assert!(!root.starts_with(self.work_dir()), "{:?} runs in {root:?}", entry.path());
        }
    }

    /// What is in the root file system of an image, unpacked.
    async fn unpacked(&self, image: &str) -> PathBuf {
        let dir = self.path(&format!("{image}.tree"));
        let file = self.path(&format!("{image}.sqsh"));
        std::fs::write(&file, self.stand.get(&format!("s3://boot-images/{image}/rootfs")).await)
            .unwrap();
        let only = ["srv", "etc/resolv.conf", "tmp"];
        support::tree::run(
            Command::new("unsquashfs")
                .args(["-no-progress", "-quiet", "-d"])
                .arg(&dir)
                .arg(&file)
                .args(only),
        );
        dir
    }

    async fn json_of(&self, image: &str, name: &str) -> Value {
        let path = format!("s3://boot-images/{image}/{name}");
        serde_json::from_slice(&self.stand.get(&path).await).unwrap()
    }
}

impl Ran {
    fn new(output: &Output) -> Self {
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        let result = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        Self { code: output.status.code().unwrap_or(-1), result, log }
    }

    fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.result, self.log);
        self
    }

    /// The layer failed with an error that has this in it.
    fn failed_with(self, text: &str) -> Self {
        assert_eq!(self.code, 5, "{}\n{}", self.result, self.log);
        let error = self.result["error"].as_str().unwrap();
        assert!(error.contains(text), "{error}\n{}", self.log);
        assert_eq!(self.result["status"]["session"]["succeeded"], "false");
        assert_eq!(self.result["status"]["artifacts"], json!([]));
        self
    }

    fn result_id(&self) -> String {
        self.result["status"]["artifacts"][0]["result_id"].as_str().unwrap().to_owned()
    }
}
