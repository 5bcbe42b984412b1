//! A job pod: `run` and `package` with the environment of contract.md, between a faulty IMS and a
//! faulty store.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::body::Bytes;
use axum::http::{Method, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use s3_client::{self as s3, Object, Store};
use serde_json::{Value, json};

use super::process::Process;
use super::proxy::Proxy;
use super::stand::{Objects, Stand};
use super::{SOON, agent, eventually, free_port, tree};

pub const JOB: &str = "5a7b1c9e-0000-4000-8000-00000000fa17";

/// A job whose record can be read, and not changed.
pub const OTHER_JOB: &str = "5a7b1c9e-0000-4000-8000-00000000fa18";

/// What IMS keeps of the one job, and who may speak to it.
#[derive(Default)]
pub struct Records {
    /// Bodies of `PATCH jobs/<id>`, in their order.
    patches: Vec<Value>,
    pub artifact: String,
    /// Requests whose body has this text are answered with this status.
    pub refuse: Option<(&'static str, u16)>,
    /// Requests need a token.
    pub guarded: bool,
    /// Tokens that were given away.
    pub tokens: usize,
    /// The first so many of them are refused.
    pub revoked: usize,
    /// Who wants a token says this, if there is one.
    pub client_secret: Option<&'static str>,
}

/// Everything around an agent, and its directory.
pub struct Pod {
    pub stand: Stand,
    pub ims: Proxy,
    pub s3: Proxy,
    pub records: Arc<Mutex<Records>>,
    pub vars: BTreeMap<&'static str, String>,
    /// The file for `--authorized-keys`.
    pub keys: PathBuf,
    /// `IMAGE_ROOT_PARENT`
    pub parent: PathBuf,
    base: String,
}

impl Pod {
    pub async fn start() -> Self {
        Self::with_image(|_| ()).await
    }

    /// A pod for a job on an image of the small root, changed by `change`.
    pub async fn with_image(change: impl FnOnce(&Path)) -> Self {
        let stand = Stand::start(Objects::Embedded).await;
        let root = stand.dir.path().join("root");
        tree::make_small_root(&root);
        change(&root);
        let image = stand.dir.path().join("base.sqsh");
        tree::squash(&root, &image);
        let base = stand.import("base", &image).await;

        let records =
            Arc::new(Mutex::new(Records { artifact: base.clone(), ..Records::default() }));
        let hook = {
            let records = records.clone();
            move |parts: &Parts, body: &Bytes| answer(&mut records.lock().unwrap(), parts, body)
        };
        let ims = Proxy::with_token(&stand.ims.base, Some(stand.token()), Box::new(hook)).await;
        let s3 = Proxy::start(stand.s3.endpoint.as_str(), Box::new(|_, _| None)).await;
        let parent = stand.dir.path().join("mnt-image");
        let keys = stand.dir.path().join("authorized_keys");
        fs::create_dir(&parent).unwrap();
        fs::write(&keys, &stand.key.public).unwrap();
        let mut pod = Self { stand, ims, s3, records, vars: BTreeMap::new(), keys, parent, base };
        pod.set_environment().await;
        pod
    }

    async fn set_environment(&mut self) {
        let rootfs = Object::new("boot-images", format!("{}/rootfs", self.base));
        let config =
            s3::Config { endpoint: self.s3.url().parse().unwrap(), ..self.stand.s3.clone() };
        let url = Store::new(config).unwrap().presign_get(&rootfs).await.unwrap();
        let md5 = self.stand.head(&rootfs.to_string()).await.metadata["md5sum"].clone();
        let directory = |name: &str| self.stand.dir.path().join(name).display().to_string();
        self.vars = BTreeMap::from([
            ("PATH", std::env::var("PATH").unwrap()),
            ("IMS_ACTION", "customize".into()),
            ("IMS_JOB_ID", JOB.into()),
            ("IMS_URL", self.ims.url()),
            // Bounds the retries as well.
            ("IMS_PYTHON_HELPER_TIMEOUT", "5".into()),
            // A test that is about them has its own.
            ("IMS_JOB_HOLD", "0".into()),
            ("IMS_JOB_GRACE", "0".into()),
            ("IMS_JOB_GRACE_UNATTENDED", "0".into()),
            ("OAUTH_CONFIG_DIR", directory("no-oauth")),
            ("DOWNLOAD_URL", url.to_string()),
            ("DOWNLOAD_MD5SUM", md5),
            ("IMAGE_ROOT_PARENT", self.parent.display().to_string()),
            ("IMAGE_ROOT_ARCHIVE_NAME", "customized".into()),
            ("SSH_JAIL", "True".into()),
            ("JOB_ENABLE_DKMS", "False".into()),
            ("S3_ENDPOINT", self.s3.url()),
            ("S3_ACCESS_KEY", "test-key".into()),
            ("S3_SECRET_KEY", "test-secret".into()),
            ("S3_BUCKET", "boot-images".into()),
        ]);
    }

    /// Starts `run`.
    pub fn run(&self) -> Agent<'_> {
        self.run_through(&[], &[])
    }

    /// Starts `run` with more options, by way of a program that starts it.
    pub fn run_through(&self, wrapper: &[&str], options: &[&str]) -> Agent<'_> {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let agent = self.agent("run", wrapper, |command| {
            command.args(["run", "--ssh-listen", &listen, "--authorized-keys"]).arg(&self.keys);
            command.args(options);
        });
        Agent { port, ..agent }
    }

    /// Starts `package` on what a job has left.
    pub fn package(&self, arguments: &[&str]) -> Agent<'_> {
        self.agent("package", &[], |command| {
            command.args(["package", "--name", "customized", "--job-id", JOB, "--root"]);
            command.arg(self.root()).args(arguments);
        })
    }

    fn agent(
        &self,
        name: &str,
        wrapper: &[&str],
        arguments: impl FnOnce(&mut Command),
    ) -> Agent<'_> {
        let mut words: Vec<_> = wrapper.iter().map(PathBuf::from).collect();
        words.push(agent());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs(&self.vars);
        arguments(&mut command);
        let start = self.statuses().len();
        let process = Process::start(command, self.stand.dir.path(), name);
        Agent { pod: self, start, process, port: 0 }
    }

    pub fn root(&self) -> PathBuf {
        self.parent.join("image-root")
    }

    pub fn touch(&self, name: &str) {
        fs::write(self.parent.join(name), "").unwrap();
    }

    /// The record as that of a new job: nothing was reported of it.
    pub fn renew_job(&self) {
        self.records.lock().unwrap().patches.clear();
    }

    pub fn statuses(&self) -> Vec<String> {
        let records = self.records.lock().unwrap();
        let status = |patch: &Value| Some(patch["status"].as_str()?.to_owned());
        records.patches.iter().filter_map(status).collect()
    }

    /// `resultant_image_id`, if the job has one.
    pub fn result(&self) -> Option<String> {
        let records = self.records.lock().unwrap();
        let result = |patch: &Value| Some(patch["resultant_image_id"].as_str()?.to_owned());
        records.patches.iter().find_map(result)
    }

    /// Ids of the images that are not the base.
    pub async fn new_images(&self) -> Vec<String> {
        assert_eq!(self.stand.ims.get("v3/deleted/images").await, json!([]));
        let images = self.stand.ims.get("v3/images").await;
        let ids = images.as_array().unwrap().iter().map(|image| image["id"].as_str().unwrap());
        ids.filter(|id| *id != self.base).map(str::to_owned).collect()
    }

    /// Whether an object belongs to the base image.
    pub fn is_of_base(&self, key: &str) -> bool {
        key.starts_with(&self.base)
    }

    /// Nothing in IMS or in the store but the base image.
    pub async fn assert_no_image(&self) {
        assert_eq!(self.result(), None);
        assert_eq!(self.new_images().await, [""; 0]);
        let keys = self.stand.keys("").await;
        assert!(keys.iter().all(|key| key.starts_with(&self.base)), "{keys:?}");
        let uploads = self.stand.store.unfinished_uploads("boot-images", "").await.unwrap();
        assert!(uploads.is_empty(), "{uploads:?}");
    }

    /// One new image, complete: the result of the job.
    pub async fn assert_image(&self) {
        let result = self.result().expect("the job has a result");
        assert_eq!(self.new_images().await, [result.as_str()]);
        let image = self.stand.ims.get(&format!("v3/images/{result}")).await;
        assert!(image["link"]["path"].is_string(), "{image}");
        assert!(self.stand.keys(&result).await.len() >= 4);
        let uploads = self.stand.store.unfinished_uploads("boot-images", "").await.unwrap();
        assert!(uploads.is_empty(), "{uploads:?}");
    }
}

/// A small volume, a tmpfs, until the end of the test.
pub struct Volume(PathBuf);

impl Volume {
    pub fn mount(path: &Path, mebibytes: u32) -> Self {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]).arg(path);
        tree::run(&mut mount);
        Self(path.to_owned())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// A started agent.
pub struct Agent<'a> {
    pod: &'a Pod,
    pub process: Process,
    /// Of the SSH server; `package` has none.
    pub port: u16,
    /// Statuses that were there before it.
    start: usize,
}

impl Agent<'_> {
    /// The statuses that this agent has reported.
    pub fn statuses(&self) -> Vec<String> {
        self.pod.statuses().split_off(self.start)
    }

    pub async fn reaches(&mut self, status: &str) {
        eventually(&format!("status {status}"), SOON, async || {
            let log = self.process.log();
            assert!(self.process.is_running(), "ended before {status}: {log}");
            self.statuses().iter().any(|found| found == status).then_some(())
        })
        .await;
    }

    /// Waits until the log has this text.
    pub async fn says(&self, text: &str) {
        let said = async || self.process.log().contains(text).then_some(());
        eventually(&format!("{text:?} in the log"), SOON, said).await;
    }

    /// Waits for the end, which must have this code and these statuses and leave no mount and no
    /// process. All `causes` must be in the log, and one of them in the result of a failure.
    pub async fn ends(mut self, code: i32, statuses: &[&str], causes: &[&str]) {
        let status = self.process.wait(3 * SOON).await;
        let log = self.process.log();
        assert_eq!(exit_code(status, &log), code, "{log}");
        assert_eq!(self.statuses(), statuses, "{log}");
        for cause in causes {
            assert!(log.contains(cause), "{cause:?} is not in the log:\n{log}");
        }
        let result: Value = serde_json::from_str(&self.process.output())
            .unwrap_or_else(|error| panic!("{error} in {:?}\n{log}", self.process.output()));
        if self.pod.result().is_some() {
            assert_eq!(result["result"], "success", "{result}");
        } else {
            assert_eq!(result["result"], "failure", "{result}");
            let error = result["error"].as_str().unwrap();
            assert!(causes.iter().any(|cause| error.contains(cause)), "{error}");
        }
        assert_nothing_left(&self.pod.parent, self.process.id()).await;
    }
}

fn exit_code(status: ExitStatus, log: &str) -> i32 {
    status.code().unwrap_or_else(|| panic!("killed by signal {:?}: {log}", status.signal()))
}

/// No mount below `parent`, no loop device on a file there, no process of the agent's.
async fn assert_nothing_left(parent: &Path, agent: u32) {
    let below = format!("{}/", parent.display());
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(&below), "{mounts}");
    for process in fs::read_dir("/proc").unwrap() {
        let process = process.unwrap().path();
        let text = |name: &str| fs::read(process.join(name)).unwrap_or_default();
        let environment = String::from_utf8_lossy(&text("environ")).into_owned();
        let ours = group(&text("stat")) == Some(agent) || environment.contains(&below);
        let command = String::from_utf8_lossy(&text("cmdline")).into_owned();
        assert!(!ours, "left running: {process:?} {command}");
    }
    // Another test's mount namespace, made meanwhile, may have a copy of the mount for a while.
    eventually("the loop devices are free", 3 * SOON, async || {
        let devices = fs::read_dir("/sys/block").unwrap();
        let backing = devices.map(|device| device.unwrap().path().join("loop/backing_file"));
        let mut files = backing.map(|file| fs::read_to_string(file).unwrap_or_default());
        (!files.any(|file| file.contains(&below))).then_some(())
    })
    .await;
}

/// The process group in `/proc/PID/stat` (proc(5): the third field after the name).
fn group(stat: &[u8]) -> Option<u32> {
    let stat = String::from_utf8_lossy(stat);
    stat.rsplit(") ").next()?.split(' ').nth(2)?.parse().ok()
}

/// Answers for the job record and the tokens; images are left to the real registry.
fn answer(records: &mut Records, parts: &Parts, body: &Bytes) -> Option<Response> {
    let path = parts.uri.path();
    if path == "/token" {
        let form = String::from_utf8_lossy(body);
        let said = |secret: &str| form.contains(&format!("client_secret={secret}"));
        if !records.client_secret.is_none_or(said) {
            return Some(StatusCode::UNAUTHORIZED.into_response());
        }
        records.tokens += 1;
        let token = format!("token-{}", records.tokens);
        return Some(Json(json!({"access_token": token, "expires_in": 3600})).into_response());
    }
    if records.guarded && !is_authorized(records, parts) {
        return Some(StatusCode::UNAUTHORIZED.into_response());
    }
    if let Some((text, status)) = records.refuse
        && String::from_utf8_lossy(body).contains(text)
    {
        return Some(StatusCode::from_u16(status).unwrap().into_response());
    }
    if path == format!("/jobs/{OTHER_JOB}") && parts.method == Method::GET {
        let job = json!({"id": OTHER_JOB, "job_type": "customize", "artifact_id": "x"});
        return Some(Json(job).into_response());
    }
    if path != format!("/jobs/{JOB}") {
        return None;
    }
    if parts.method == Method::PATCH {
        records.patches.push(serde_json::from_slice(body).unwrap());
    }
    let mut job = json!({"id": JOB, "job_type": "customize", "artifact_id": records.artifact});
    for patch in &records.patches {
        let fields = patch.as_object().unwrap().clone();
        job.as_object_mut().unwrap().extend(fields);
    }
    Some(Json(job).into_response())
}

fn is_authorized(records: &Records, parts: &Parts) -> bool {
    let header = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let number = header.and_then(|text| text.strip_prefix("Bearer token-")?.parse::<usize>().ok());
    number.is_some_and(|number| number > records.revoked)
}
