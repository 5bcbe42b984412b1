//! Pods run by podman, in a storage of their own: what IMS, the kubelet and the site provide.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value, json};

use crate::support::pod::{JOB, Pod};
use crate::support::ssh::Key;
use crate::support::{SOON, agent, eventually, free_port, lab, recipe, tree};

/// Variables that come from a Secret.
pub const SECRETS: [&str; 2] = ["S3_ACCESS_KEY", "S3_SECRET_KEY"];

/// Makes the spec of a pod.
pub type Spec = fn(&Settings) -> Value;

/// What a spec needs to know.
pub struct Settings {
    /// Of the pod, and what the names of all that belongs to it begin with.
    pub name: String,
    /// The environment of a job, without secrets and without the URL of what is fetched.
    pub vars: BTreeMap<&'static str, String>,
    pub url: String,
}

/// A pod that runs; it goes with this.
pub struct Kube {
    name: String,
    /// Of the SSH server.
    pub port: u16,
    play: Child,
    log: PathBuf,
}

impl Kube {
    /// Starts the pod; with init containers it is on its way when this returns.
    pub async fn start(pod: &Pod, key: &Key, spec: Spec) -> Self {
        tokio::task::block_in_place(build);
        let port = free_port();
        let name = format!("ims-{port}");
        let mut vars = pod.vars.clone();
        let url = vars.remove("DOWNLOAD_URL").unwrap();
        let secrets = SECRETS.map(|var| (var, vars.remove(var).unwrap()));
        vars.extend([
            ("SSHD_OPTIONS", format!("-o ListenAddress=127.0.0.1:{port}")),
            ("CA_CERT", "/etc/cray/ca/certificate_authority.crt".into()),
            ("OAUTH_CONFIG_DIR", "/etc/admin-client-auth".into()),
            ("IMAGE_ROOT_PARENT", "/mnt/image".into()),
        ]);
        vars.retain(|var, _| !["PATH", "HOME"].contains(var));

        let dir = pod.stand.dir.path();
        let data = secrets.map(|(var, value)| (var, BASE64_STANDARD.encode(value)));
        let secret = dir.join("secret.json");
        fs::write(&secret, json!(BTreeMap::from(data)).to_string()).unwrap();
        let settings = Settings { name: name.clone(), vars, url };
        let file = dir.join(format!("{name}.yaml"));
        fs::write(&file, documents(pod, key, &settings, spec)).unwrap();
        let log = dir.join("play");
        // What podman 4.3 makes of a Secret in the YAML it cannot use for variables.
        let create = ["secret", "create", &format!("{name}-s3")];
        tokio::task::block_in_place(|| tree::run(podman("podman").args(create).arg(&secret)));
        let output = fs::File::create(&log).unwrap();
        let play = podman("podman")
            .args(["play", "kube", "--network", "host"])
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(output.try_clone().unwrap())
            .stdout(output)
            .spawn()
            .unwrap();
        Self { name, port, play, log }
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

    /// Waits until the containers have ended with these codes. Nothing of the pod is left mounted.
    pub async fn ended(&mut self, containers: &[(&str, i32)]) {
        eventually("the pod is started, or was stopped", SOON, async || {
            self.play.try_wait().unwrap()
        })
        .await;
        for (container, code) in containers {
            let ended = async || {
                let format = "{{.State.Status}} {{.State.ExitCode}}";
                let state = output(
                    podman("podman").args(["inspect", "-f", format]).arg(self.of(container)),
                );
                state.trim().strip_prefix("exited ").map(str::to_owned)
            };
            let found = eventually(&format!("the end of {container}"), SOON, ended).await;
            assert_eq!(found, code.to_string(), "{container}:\n{}", self.logs());
        }
        let volume = format!("{}-image/", self.name);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&volume), "{mounts}");
        eventually("the loop devices are free", SOON, async || {
            let devices = fs::read_dir("/sys/block").unwrap();
            let backing = devices.map(|device| device.unwrap().path().join("loop/backing_file"));
            let mut files = backing.map(|file| fs::read_to_string(file).unwrap_or_default());
            (!files.any(|file| file.contains(&volume))).then_some(())
        })
        .await;
    }

    /// As the kubelet ends a pod: each container that runs gets SIGTERM. (`podman pod stop` waits for
    /// init containers.)
    pub fn stop(&self) {
        let filter = format!("name=^{}-", self.name);
        let format = ["--format", "{{.Names}}"];
        let running = tree::run(podman("podman").args(["ps", "--filter", &filter]).args(format));
        for container in String::from_utf8(running).unwrap().lines() {
            let mut kill = podman("podman");
            let killed = kill.args(["kill", "--signal", "TERM", container]).output().unwrap();
            let said = String::from_utf8_lossy(&killed.stderr);
            // One container ends with another that was killed before it.
            let ended = said.contains("can only kill running containers");
            assert!(killed.status.success() || ended, "{container}: {said}");
        }
    }

    /// Kills a container without a warning, as the kernel does when memory runs out.
    pub fn kill(&self, container: &str) {
        tree::run(podman("podman").args(["kill", "--signal", "KILL"]).arg(self.of(container)));
    }

    /// As the kubelet restarts a container.
    pub fn restart(&self, container: &str) {
        tree::run(podman("podman").arg("start").arg(self.of(container)));
    }

    pub fn logs(&self) -> String {
        let play = fs::read_to_string(&self.log).unwrap();
        play + &output(podman("podman").args(["pod", "logs", &self.name]))
    }

    fn of(&self, container: &str) -> String {
        format!("{}-{container}", self.name)
    }
}

impl Drop for Kube {
    fn drop(&mut self) {
        let of = |what: &str| self.of(what);
        for arguments in [
            &["pod", "rm", "--force", "--time", "10", &self.name][..],
            &["volume", "rm", "--force", &of("image"), &of("recipe"), &of("ca-rpm")],
            &["volume", "rm", "--force", &of("s3-credentials")],
            &["volume", "rm", "--force", &of("configmap"), &of("ca"), &of("oauth")],
            &["secret", "rm", &of("s3")],
        ] {
            let _ = podman("podman").args(arguments).output();
        }
        let _ = self.play.wait();
    }
}

/// The YAML for podman: what the site has, and the pod.
fn documents(pod: &Pod, key: &Key, settings: &Settings, spec: Spec) -> String {
    let name = &settings.name;
    let config = |suffix: &str, data: Value| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("{name}-{suffix}")},
            "data": data,
        })
    };
    let values = fs::read_to_string(pod.stand.dir.path().join("values")).unwrap_or_default();
    let user = json!({"public_key": key.public, "template_dictionary": values});
    let oauth = json!({
        "client-id": "admin", "client-secret": "s3cret", "endpoint": format!("{}/token", pod.ims.url()),
    });
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"job": JOB}},
        "spec": spec(settings),
    });
    // JSON is YAML.
    let documents = [
        config("configmap", user),
        config("ca", json!({"certificate_authority.crt": recipe::ca()})),
        config("oauth", oauth),
        pod,
    ];
    documents.map(|document| document.to_string()).join("\n---\n")
}

/// Builds the images with the program under test, once for all tests.
fn build() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let base = "localhost/ims-lab-base:1";
        tree::run(podman("podman").args(["import", "--quiet", &lab("IMS_LAB_BASE"), base]));
        let build = || {
            let mut build = podman("images/build");
            build.args(["--base", base, "--binary"]).arg(agent()).output().unwrap()
        };
        let mut built = build();
        let said = |built: &Output| {
            String::from_utf8_lossy(&[&built.stdout[..], &built.stderr].concat()).into_owned()
        };
        // The container runtime's own start, which is no matter of ours, fails so now and then.
        if said(&built).contains("sealing memfd copy: Device or resource busy") {
            built = build();
        }
        assert!(built.status.success(), "{}", said(&built));
    });
}

/// A container program with a storage of our own, and with limits that need no CAP_SYS_RESOURCE.
fn podman(program: &str) -> Command {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("containers");
    static CONFIGURED: OnceLock<()> = OnceLock::new();
    CONFIGURED.get_or_init(|| configure(&dir));
    let mut command = Command::new(program);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CONTAINERS_STORAGE_CONF", dir.join("storage.conf"))
        .env("CONTAINERS_CONF", dir.join("containers.conf"));
    command
}

fn configure(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let storage = format!(
        "[storage]\ndriver = \"overlay\"\ngraphroot = \"{0}/graph\"\nrunroot = \"{0}/run\"\n",
        dir.display()
    );
    fs::write(dir.join("storage.conf"), storage).unwrap();
    let containers = "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \
                      \"nproc=1024:1024\"]\n[engine]\nruntime = \"runc\"\ncgroup_manager = \
                      \"cgroupfs\"\nevents_logger = \"file\"\n";
    fs::write(dir.join("containers.conf"), containers).unwrap();
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}
