//! One point's surroundings: a directory, two proxies, a record, and the program started between them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use s3_client::{self as s3, Object, Store};
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::director::Director;
use crate::proxy::{Proxy, Service};
use crate::record::Record;
use crate::shape::{self, Shape, Work};
use crate::support::process::Process;
use crate::support::{agent, free_port};

/// Of the new image.
pub const NAME: &str = "customized";

/// How long a job is held for what somebody can repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Longer than any point takes; users have as long to repair their image.
    Long,
    No,
    /// Not at all, but the work is saved elsewhere.
    Rescue,
}

pub struct Site {
    pub shape: Shape,
    pub dir: PathBuf,
    /// `IMAGE_ROOT_PARENT`
    pub parent: PathBuf,
    pub job: String,
    pub record: Record,
    pub director: Arc<Director>,
    pub ims: Proxy,
    pub s3: Proxy,
    pub vars: BTreeMap<&'static str, String>,
    /// What starts the program, before what the shape says.
    pub wrapper: Vec<String>,
    started: usize,
}

impl Site {
    pub async fn make(bench: &Bench, shape: Shape, hold: Hold, dir: &Path) -> Self {
        let job = uuid::Uuid::new_v4().to_string();
        let director = Arc::new(Director::default());
        let action = if shape.work == Work::AfterBuild { "create" } else { "customize" };
        let record = Record::new(&job, &bench.base, action);
        let proxy = async |service, upstream: (&str, Option<String>), hook| {
            Proxy::start(service, upstream, &bench.base, director.clone(), hook).await
        };
        let upstream = (bench.stand.ims.base.as_str(), Some(bench.stand.token()));
        let ims = proxy(Service::Ims, upstream, record.hook()).await;
        let endpoint = bench.stand.s3.endpoint.as_str();
        let s3 = proxy(Service::S3, (endpoint, None), Box::new(|_, _| None)).await;
        let parent = dir.join("mnt-image");
        fs::create_dir_all(&parent).unwrap();
        fs::create_dir_all(dir.join("tmp")).unwrap();
        fs::write(dir.join("authorized_keys"), &bench.stand.key.public).unwrap();
        if let Some((label, fault)) = shape.standing {
            director.standing(label, fault);
        }
        // Whoever runs `package` may run it again.
        if shape.work == Work::Package {
            record.by_hand();
        }
        let vars = BTreeMap::new();
        let dir = dir.to_owned();
        let wrapper = Vec::new();
        let mut site =
            Self { shape, dir, parent, job, record, director, ims, s3, vars, wrapper, started: 0 };
        site.set_environment(bench, action, hold).await;
        site.furnish(bench);
        site
    }

    async fn set_environment(&mut self, bench: &Bench, action: &str, hold: Hold) {
        let rootfs = Object::new("boot-images", format!("{}/rootfs", bench.base));
        let config =
            s3::Config { endpoint: self.s3.url().parse().unwrap(), ..bench.stand.s3.clone() };
        let url = Store::new(config).unwrap().presign_get(&rootfs).await.unwrap();
        let md5 = bench.stand.head(&rootfs.to_string()).await.metadata["md5sum"].clone();
        let below = |name: &str| self.dir.join(name).display().to_string();
        let patience = if hold == Hold::Long { "1h" } else { "0" };
        self.vars = BTreeMap::from([
            ("PATH", std::env::var("PATH").unwrap()),
            ("TMPDIR", below("tmp")),
            ("IMS_ACTION", action.into()),
            ("IMS_JOB_ID", self.job.clone()),
            ("IMS_URL", self.ims.url()),
            // Bounds the retries as well.
            ("IMS_PYTHON_HELPER_TIMEOUT", "4".into()),
            ("IMS_JOB_HOLD", patience.into()),
            ("IMS_JOB_GRACE", patience.into()),
            ("IMS_JOB_GRACE_UNATTENDED", patience.into()),
            ("OAUTH_CONFIG_DIR", below("no-oauth")),
            ("DOWNLOAD_URL", url.to_string()),
            ("DOWNLOAD_MD5SUM", md5),
            ("IMAGE_ROOT_PARENT", self.parent.display().to_string()),
            ("RECIPE_ROOT_PARENT", below("recipe")),
            ("IMAGE_ROOT_ARCHIVE_NAME", NAME.into()),
            ("SSH_JAIL", if self.shape.jail { "True" } else { "False" }.into()),
            ("JOB_ENABLE_DKMS", "False".into()),
            ("S3_ENDPOINT", self.s3.url()),
            ("S3_ACCESS_KEY", "test-key".into()),
            ("S3_SECRET_KEY", "test-secret".into()),
            ("S3_BUCKET", "boot-images".into()),
        ]);
        if hold == Hold::Rescue {
            fs::create_dir(self.rescue()).unwrap();
            self.vars.insert("IMS_JOB_RESCUE", below("rescue"));
        }
    }

    /// What other containers, or an operator, have done before.
    fn furnish(&self, bench: &Bench) {
        match self.shape.work {
            Work::Customize => {}
            Work::AfterBuild => {
                bench.unpack(&self.root());
                let agent = self.parent.join(".ims-job-agent");
                fs::create_dir(&agent).unwrap();
                let built = json!({"job_id": self.job, "recipe": null});
                fs::write(agent.join("build.json"), built.to_string()).unwrap();
            }
            Work::Package | Work::Import => bench.unpack(&self.root()),
            Work::Standalone => unreachable!("it has its own driver"),
        }
    }

    /// Where the work of a job that fails is saved.
    pub fn rescue(&self) -> PathBuf {
        self.dir.join("rescue")
    }

    /// The image root.
    pub fn root(&self) -> PathBuf {
        match self.shape.work {
            Work::Customize => self.parent.join("image-root"),
            Work::AfterBuild => self.parent.join("build/image-root"),
            _ => self.parent.join("plain"),
        }
    }

    /// Starts the work, again if it was started before.
    pub fn start(&mut self) -> Agent {
        let (ssh, status) = (free_port(), free_port());
        let mut command = self.command();
        match self.shape.work {
            Work::Customize | Work::AfterBuild => {
                command.args(["run", "--ssh-listen", &format!("127.0.0.1:{ssh}")]);
                command.args(["--status-listen", &format!("127.0.0.1:{status}")]);
                command.arg("--authorized-keys").arg(self.dir.join("authorized_keys"));
                command.args(self.shape.options);
            }
            Work::Package => self.add_package(&mut command),
            Work::Import | Work::Standalone => {
                command.args(["image", "import", "--format", "json", "--name", NAME]);
                command.arg("--work-dir").arg(self.dir.join("tmp")).arg(self.root());
            }
        }
        self.begin(command, "run", ssh, status)
    }

    /// Starts `package` on what a job has left, as its log says.
    pub fn package(&mut self) -> Agent {
        let mut command = Command::new(agent());
        command.env_clear().envs(&self.vars);
        self.add_package(&mut command);
        self.begin(command, "package", 0, 0)
    }

    fn add_package(&self, command: &mut Command) {
        command.args(["package", "--name", NAME, "--job-id", &self.job, "--root"]);
        command.arg(self.root());
    }

    fn command(&self) -> Command {
        let mut words: Vec<_> = self.wrapper.iter().map(PathBuf::from).collect();
        words.extend(self.shape.wrapper.iter().map(PathBuf::from));
        words.push(agent());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().envs(&self.vars);
        command
    }

    fn begin(&mut self, command: Command, what: &str, ssh: u16, status: u16) -> Agent {
        self.started += 1;
        let name = format!("{}-{what}", self.started);
        let process = Process::start(command, &self.dir, &name);
        let forks = what == "run" && self.shape.wrapper == shape::AS_PID_1;
        Agent { process, forks, ssh, status, told: self.record.told().len() }
    }
}

/// The program at work.
pub struct Agent {
    pub process: Process,
    /// What was started starts the program as a child.
    pub forks: bool,
    pub ssh: u16,
    status: u16,
    /// What the record was told before it.
    pub told: usize,
}

impl Agent {
    /// The process of the program, if it is there.
    pub fn pid(&self) -> Option<u32> {
        let id = self.process.id();
        if !self.forks {
            return Some(id);
        }
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// It may have ended meanwhile.
    pub fn signal(&self, signal: Signal) {
        let pid = self.pid().unwrap_or(self.process.id());
        let _ = kill(Pid::from_raw(pid as i32), signal);
    }

    /// Its end, if it has come.
    pub async fn ended(&mut self) -> Option<ExitStatus> {
        if self.process.is_running() {
            return None;
        }
        Some(self.process.wait(Duration::from_secs(1)).await)
    }

    /// What `/status` shows.
    pub async fn shown(&self) -> Option<Value> {
        if self.status == 0 {
            return None;
        }
        let url = format!("http://127.0.0.1:{}/status", self.status);
        let limit = Duration::from_secs(2);
        let client = reqwest::Client::builder().timeout(limit).build().unwrap();
        client.get(url).send().await.ok()?.json().await.ok()
    }

    /// The status that it shows itself.
    pub async fn status(&self) -> Option<String> {
        Some(self.shown().await?["status"].as_str()?.to_owned())
    }

    /// What it says that the job is held for.
    pub async fn hold(&self) -> Option<Value> {
        self.shown().await.map(|shown| shown["hold"].clone()).filter(|hold| !hold.is_null())
    }
}
