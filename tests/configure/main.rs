//! `configure` with real git and ansible on a real root, and the procedure of CFS on standalone.

mod bad_layers;
mod cfs;
mod clones;
mod disk;
mod gateway;
mod inventory;
mod layers;
mod repository;
#[path = "../support/mod.rs"]
mod support;
mod unpacked;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::lab;
use support::stand::{Objects, Stand};

/// A standalone server with the lab's root as an image.
struct Bench {
    stand: Stand,
    image: String,
    work_dir: PathBuf,
}

/// What a run of `configure` left.
struct Ran {
    code: i32,
    result: Value,
    log: String,
}

impl Bench {
    async fn start(objects: Objects) -> Self {
        let stand = Stand::start(objects).await;
        let image = stand.import("lab", Path::new(&lab("IMS_LAB_ROOT"))).await;
        let work_dir = stand.dir.path().join("work");
        Self { stand, image, work_dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.stand.dir.path().join(name)
    }

    /// `configure` of these layers, with arguments.
    fn command(&self, layers: &Value, arguments: &[&str]) -> Command {
        self.command_of(&json!({"name": "conf", "layers": layers}), arguments)
    }

    /// `configure` of a configuration, with arguments.
    fn command_of(&self, configuration: &Value, arguments: &[&str]) -> Command {
        let file = self.path("conf.json");
        std::fs::write(&file, configuration.to_string()).unwrap();
        let mut command = self.stand.command(&["configure", "--format", "json"]);
        command
            .args(["--image", &self.image, "--configuration"])
            .arg(file)
            .arg("--work-dir")
            .arg(&self.work_dir)
            .args(["--group", "Compute"])
            .args(arguments);
        command
    }

    async fn configure(&self, layers: &Value, arguments: &[&str]) -> Ran {
        self.run(self.command(layers, arguments)).await
    }

    async fn run(&self, mut command: Command) -> Ran {
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        self.assert_clean();
        Ran::new(&output)
    }

    /// Nothing of a run is mounted or running any more.
    fn assert_clean(&self) {
        let work = self.work_dir.display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&work), "{mounts}");
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let root = std::fs::read_link(entry.path().join("root")).unwrap_or_default();
            assert!(!root.starts_with(&self.work_dir), "{:?} runs in {root:?}", entry.path());
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
