//! Pods from YAML by podman, in a storage of their own; what a pod is made of, as IMS's templates
//! have it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

use crate::support::pod::Pod;
use crate::support::ssh::Key;
use crate::support::{SOON, agent, eventually, free_port, lab, tree};

/// What the sessions do, in the image root.
pub const CHANGE: &str = "echo changed > etc/motd; rm usr/lib/empty; mkdir opt";

const IMAGE: &str = concat!("localhost/ims-job-agent:", env!("CARGO_PKG_VERSION"));

/// The spec of a pod.
pub type Yaml = fn(&Settings) -> Value;

/// What a spec needs to know.
pub struct Settings {
    name: String,
    port: u16,
    env: Vec<Value>,
    url: String,
}

/// A pod that runs; it goes with this.
pub struct Kube {
    name: String,
    /// Of the SSH server.
    pub port: u16,
}

impl Kube {
    pub async fn start(pod: &Pod, key: &Key, yaml: Yaml) -> Self {
        tokio::task::block_in_place(build);
        let port = free_port();
        let name = format!("ims-{port}");
        let plain = |(name, value): (&&str, &String)| json!({"name": name, "value": value});
        let mut vars: BTreeMap<&str, String> = pod.vars.clone();
        vars.insert("SSHD_OPTIONS", format!("-o ListenAddress=127.0.0.1:{port}"));
        vars.remove("PATH");
        let url = vars.remove("DOWNLOAD_URL").unwrap();
        let secrets = ["S3_ACCESS_KEY", "S3_SECRET_KEY"];
        let mut env: Vec<_> =
            vars.iter().filter(|(name, _)| !secrets.contains(name)).map(plain).collect();
        env.extend(secrets.map(|var| {
            let secret = json!({"name": format!("{name}-s3"), "key": var});
            json!({"name": var, "valueFrom": {"secretKeyRef": secret}})
        }));
        let data = secrets.map(|var| (var, BASE64_STANDARD.encode(&vars[var])));
        let secret = pod.stand.dir.path().join("secret.json");
        fs::write(&secret, json!(BTreeMap::from(data)).to_string()).unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("{name}-configmap")},
            "data": {"authorized_keys": key.public},
        });
        let spec = yaml(&Settings { name: name.clone(), port, env, url });
        let file = pod.stand.dir.path().join(format!("{name}.yaml"));
        // JSON is YAML.
        let documents = [&config, &spec].map(Value::to_string);
        fs::write(&file, documents.join("\n---\n")).unwrap();
        let kube = Self { name, port };
        tokio::task::block_in_place(|| {
            // What podman 4.3 makes of a Secret in the YAML it cannot use for variables.
            let name = format!("{}-s3", kube.name);
            tree::run(podman("podman").args(["secret", "create", &name]).arg(&secret));
            tree::run(podman("podman").args(["play", "kube", "--network", "host"]).arg(&file));
        });
        kube
    }

    /// Waits until IMS was told this status.
    pub async fn reaches(&self, pod: &Pod, status: &str) {
        eventually(&format!("status {status}"), 2 * SOON, async || {
            let statuses = pod.statuses();
            let ended = statuses.last().is_some_and(|last| last == "error" || last == "success");
            let found = statuses.iter().any(|found| found == status);
            assert!(found || !ended, "{statuses:?} and not {status}:\n{}", self.logs());
            found.then_some(())
        })
        .await;
    }

    /// Waits until the containers have ended with these codes.
    pub async fn ended(&self, containers: &[(&str, i32)]) {
        for (container, code) in containers {
            let ended = async || {
                let format = "{{.State.Status}} {{.State.ExitCode}}";
                let container = format!("{}-{container}", self.name);
                let state = output(podman("podman").args(["inspect", "-f", format, &container]));
                state.trim().strip_prefix("exited ").map(str::to_owned)
            };
            let found = eventually(&format!("the end of {container}"), SOON, ended).await;
            assert_eq!(found, code.to_string(), "{container}:\n{}", self.logs());
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&format!("{}-image/", self.name)), "{mounts}");
    }

    /// As the kubelet ends a pod: SIGTERM, later SIGKILL.
    pub fn stop(&self) {
        tree::run(podman("podman").args(["pod", "stop", "--time", "30", &self.name]));
    }

    fn logs(&self) -> String {
        output(podman("podman").args(["pod", "logs", &self.name]))
    }
}

impl Drop for Kube {
    fn drop(&mut self) {
        let volume = format!("{}-image", self.name);
        let keys = format!("{}-configmap", self.name);
        let secret = format!("{}-s3", self.name);
        for arguments in [
            &["pod", "rm", "--force", "--time", "10", &self.name][..],
            &["volume", "rm", "--force", &volume, &keys],
            &["secret", "rm", &secret],
        ] {
            let _ = podman("podman").args(arguments).output();
        }
    }
}

/// The agent alone, privileged as for DKMS.
pub fn one_container(settings: &Settings) -> Value {
    let mut env = settings.env.clone();
    env.push(json!({"name": "DOWNLOAD_URL", "value": settings.url}));
    let container = json!({
        "name": "agent",
        "image": IMAGE,
        "securityContext": {"privileged": true},
        "env": env,
        "volumeMounts": mounts(),
    });
    spec(settings, json!([]), json!([container]))
}

/// The pod that IMS's own templates make: the same image under the entry points of the incumbents.
pub fn three_containers(settings: &Settings) -> Value {
    let init = json!({
        "name": "prepare",
        "image": IMAGE,
        "securityContext": {"privileged": true},
        "command": ["sh", "-ce", format!("/scripts/prep-env.sh /mnt/image \"{}\"", settings.url)],
        "env": settings.env,
        "volumeMounts": mounts(),
    });
    let sidecar = json!({
        "name": "buildenv-sidecar",
        "image": IMAGE,
        "command": ["sh", "-ce", "exec /scripts/buildenv-sidecar.sh /mnt/image"],
        "env": settings.env,
        "volumeMounts": mounts(),
    });
    let open = |var: &&Value| !var["name"].as_str().unwrap().starts_with("S3_");
    let env: Vec<_> = settings.env.iter().filter(open).collect();
    let sshd = json!({
        "name": "sshd",
        "image": IMAGE,
        "command": ["/entrypoint.sh"],
        "env": env,
        "volumeMounts": mounts(),
    });
    spec(settings, json!([init]), json!([sidecar, sshd]))
}

fn mounts() -> Value {
    json!([
        {"name": "image-vol", "mountPath": "/mnt/image"},
        {"name": "ssh-pubkey", "mountPath": "/etc/cray", "readOnly": true},
    ])
}

fn spec(settings: &Settings, init: Value, containers: Value) -> Value {
    let name = &settings.name;
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"port": settings.port.to_string()}},
        "spec": {
            "restartPolicy": "Never",
            "hostNetwork": true,
            "initContainers": init,
            "containers": containers,
            "volumes": [
                {"name": "image-vol", "persistentVolumeClaim": {"claimName": format!("{name}-image")}},
                {"name": "ssh-pubkey", "configMap": {"name": format!("{name}-configmap")}},
            ],
        },
    })
}

/// Builds the image with the program under test, once for all tests.
fn build() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let base = "localhost/ims-lab-base:1";
        tree::run(podman("podman").args(["import", "--quiet", &lab("IMS_LAB_BASE"), base]));
        let mut build = podman("images/build");
        tree::run(build.args(["--base", base, "--binary"]).arg(agent()).arg("agent"));
    });
}

/// A container program with a storage of our own, and with limits that need no CAP_SYS_RESOURCE.
fn podman(program: &str) -> Command {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("containers");
    static CONFIGURED: OnceLock<()> = OnceLock::new();
    CONFIGURED.get_or_init(|| {
        fs::create_dir_all(&dir).unwrap();
        let storage = format!(
            "[storage]\ndriver = \"overlay\"\ngraphroot = \"{0}/graph\"\nrunroot = \"{0}/run\"\n",
            dir.display()
        );
        fs::write(dir.join("storage.conf"), storage).unwrap();
        let containers = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \
                          \"nproc=1024:1024\"]\n[engine]\nruntime = \"runc\"\ncgroup_manager = \
                          \"cgroupfs\"\nevents_logger = \"file\"\n";
        fs::write(dir.join("containers.conf"), containers).unwrap();
    });
    let mut command = Command::new(program);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CONTAINERS_STORAGE_CONF", dir.join("storage.conf"))
        .env("CONTAINERS_CONF", dir.join("containers.conf"));
    command
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}
