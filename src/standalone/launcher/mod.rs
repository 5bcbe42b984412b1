//! Jobs as child processes: `ims-job-agent run`, each with its own /mnt/image.
//!
//! Called by `api` (POST and DELETE of jobs) and by `standalone` (start and end).

mod conclude;
mod directory;
mod env;
mod log;
mod process;
mod recover;
mod spawner;

pub use env::{Download, Services, connection};
pub use log::keep_short;
pub use spawner::Spawner;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::data;
use super::objects::Objects;
use super::records::{self, Job, Records};
use crate::contract::defaults::IMAGE_ROOT_PARENT;
use crate::ssh::hostkeys::{self, PublicHostKeys};
use crate::telemetry::chain;
use crate::workspace::{Layout, State};
use directory::Directory;
use ims_client::Status;
use linux::launch;
use process::Identity;

/// How long a job may take to end when asked: it closes sessions, unmounts, and patches its record.
const GRACE: Duration = Duration::from_secs(30);

/// How long a client waits to read in the record that its job could not be started.
const PROMPT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot create {IMAGE_ROOT_PARENT}, the mount point for the directory of each job")]
    MountPoint(#[source] io::Error),
    #[error("cannot create the directory of jobs {path}")]
    Jobs { path: PathBuf, source: io::Error },
    #[error("cannot start the thread that starts jobs")]
    Thread(#[source] io::Error),
    #[error("cannot listen on {ip} for the SSH server of a job")]
    Listen { ip: IpAddr, source: io::Error },
    #[error("cannot prepare the directory of job {job}")]
    Directory { job: Uuid, source: io::Error },
    #[error(
        "cannot start {program} in its own mount namespace; run standalone as root (CAP_SYS_ADMIN)"
    )]
    Spawn { program: PathBuf, source: io::Error },
    #[error(transparent)]
    Records(#[from] records::Error),
}

/// What the launcher is made with.
#[derive(Debug)]
pub struct Setup {
    pub records: Records,
    /// Where jobs publish.
    pub objects: Objects,
    /// Parent of the jobs' directories.
    pub jobs: PathBuf,
    pub agent_binary: PathBuf,
    /// Where jobs' SSH servers listen.
    pub ssh_ip: IpAddr,
    /// The host in the records, for users to connect to.
    pub ssh_host: String,
    pub services: Services,
}

/// Starts, watches and ends jobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Launcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    setup: Setup,
    spawner: Spawner,
    jobs: Mutex<Jobs>,
    watchers: TaskTracker,
}

#[derive(Debug, Default)]
struct Jobs {
    running: HashMap<Uuid, Running>,
    /// Standalone is ending: no job starts any more.
    closed: bool,
}

/// A job whose child is not yet reaped.
#[derive(Debug, Clone, Default)]
struct Running {
    /// Cancelled to end it.
    stop: CancellationToken,
    /// Cancelled when nothing of it runs any more and its record says so.
    ended: CancellationToken,
}

/// A port that is reserved for a job before the job runs, so that its record can contain it.
#[derive(Debug)]
pub struct Port {
    listener: TcpListener,
    pub host: String,
    pub port: u16,
}

impl Launcher {
    /// Called inside a tokio runtime.
    pub fn new(setup: Setup) -> Result<Self, Error> {
        make_mount_point().map_err(Error::MountPoint)?;
        data::make_private(&setup.jobs)
            .map_err(|source| Error::Jobs { path: setup.jobs.clone(), source })?;
        let spawner = Spawner::new().map_err(Error::Thread)?;
        let inner = Inner { setup, spawner, jobs: Mutex::default(), watchers: TaskTracker::new() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Takes a free port for a job's SSH server.
    pub fn port(&self) -> Result<Port, Error> {
        self.inner.port(0)
    }

    /// Starts a job whose record is stored. If that fails the record says so.
    pub async fn start(&self, job: &Job, public_key: &str, download: &Download, port: Port) {
        let Some(running) = self.inner.enter(job.id) else {
            let stop = CancellationToken::new();
            stop.cancel();
            return self.inner.conclude(job.id, "standalone is shutting down", &stop).await;
        };
        match self.inner.launch(job, public_key, download, port).await {
            Ok(child) => {
                tracing::info!(job = %job.id, pid = child.id(), "job started");
                let watch = Arc::clone(&self.inner).watch(job.id, child, running);
                self.inner.watchers.spawn(watch);
            }
            Err(error) => {
                self.inner.setup.services.grants.take(job.id).await;
                // Where even that cannot be stored, the client that asks for a job is not kept waiting.
                let (inner, job, reason) = (Arc::clone(&self.inner), job.id, chain(&error));
                let concluding = self.inner.watchers.spawn(async move {
                    inner.conclude(job, &reason, &running.stop).await;
                    inner.leave(job, &running);
                });
                let _ = tokio::time::timeout(PROMPT, concluding).await;
            }
        }
    }

    /// The SSH host keys of a job; an error of kind `NotFound` in it when there are none (any more).
    pub fn host_keys(&self, job: Uuid) -> Result<PublicHostKeys, hostkeys::Error> {
        let layout = Layout::new(&self.inner.directory(job).mnt());
        PublicHostKeys::load(&layout.host_keys())
    }

    /// Ends a job if it runs, and removes its directory. Returns when that is done.
    pub async fn end(&self, job: Uuid) {
        let running = self.inner.jobs().running.get(&job).cloned();
        if let Some(running) = running {
            running.stop.cancel();
            running.ended.cancelled().await;
        }
        let directory = self.inner.directory(job);
        let removed = tokio::task::spawn_blocking(move || directory.remove()).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%job, %error, "cannot remove the directory of a job");
        }
    }

    /// Ends all jobs; their trees stay. Those in which a user has worked continue at the next start.
    pub async fn shut_down(&self) {
        self.inner.close();
        self.inner.watchers.close();
        self.inner.watchers.wait().await;
    }
}

impl Inner {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a job as running, unless standalone is ending.
    fn enter(&self, job: Uuid) -> Option<Running> {
        let mut jobs = self.jobs();
        if jobs.closed {
            return None;
        }
        let running = Running::default();
        jobs.running.insert(job, running.clone());
        Some(running)
    }

    /// Lets no job start any more, and asks those that run to end.
    fn close(&self) {
        let mut jobs = self.jobs();
        jobs.closed = true;
        for running in jobs.running.values() {
            running.stop.cancel();
        }
    }

    /// The last that is done for a job.
    fn leave(&self, job: Uuid, running: &Running) {
        self.jobs().running.remove(&job);
        running.ended.cancel();
    }

    /// Takes a port for a job's SSH server; 0: any that is free.
    fn port(&self, port: u16) -> Result<Port, Error> {
        let ip = self.setup.ssh_ip;
        let listen = || {
            let listener = TcpListener::bind(SocketAddr::new(ip, port))?;
            let port = listener.local_addr()?.port();
            Ok((listener, port))
        };
        let (listener, port) = listen().map_err(|source| Error::Listen { ip, source })?;
        Ok(Port { listener, host: self.setup.ssh_host.clone(), port })
    }

    fn directory(&self, job: Uuid) -> Directory {
        Directory::of(&self.setup.jobs, job)
    }

    async fn launch(
        &self,
        job: &Job,
        public_key: &str,
        download: &Download,
        port: Port,
    ) -> Result<Child, Error> {
        let created = self.directory(job.id).create(public_key, download);
        created.map_err(|source| Error::Directory { job: job.id, source })?;
        self.spawn(job, download, port).await
    }

    /// Starts the agent in a directory that is there.
    async fn spawn(&self, job: &Job, download: &Download, port: Port) -> Result<Child, Error> {
        let directory = self.directory(job.id);
        let failed = |source| Error::Directory { job: job.id, source };
        let services = &self.setup.services;
        if job.require_dkms && !services.allow_dkms {
            tracing::info!(
                job = %job.id,
                "sessions of this job cannot mount file systems: start standalone with \
                 --allow-dkms to allow this"
            );
        }
        let credentials = services.give_again(job.id, Some(job.id), download.reads(job)).await;
        let credentials = credentials.map_err(failed)?;
        let inherited = port.listener.as_raw_fd();
        let mut command = Command::new(&self.setup.agent_binary);
        command
            .args(["run", "--ssh-listen", &format!("fd://{inherited}"), "--template-dictionary"])
            .arg(directory.template_dictionary())
            .args(self.setup.services.sessions.arguments())
            .arg("--ca-rpm-dir")
            .arg(directory.ca_rpm())
            .arg("--authorized-keys")
            .arg(directory.authorized_keys())
            .env_clear()
            .envs(env::variables(job, services, download, &credentials))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(directory.open_result().map_err(failed)?)
            .stderr(directory.open_log().map_err(failed)?);
        let program = &self.setup.agent_binary;
        let spawn = |source| Error::Spawn { program: program.clone(), source };
        let at = Path::new(IMAGE_ROOT_PARENT);
        let orphaned = launch::Orphaned::Killed;
        launch::isolate(&mut command, &directory.mnt(), at, Some(inherited), orphaned)
            .map_err(spawn)?;
        // A session outside of a jail is root in this machine's tree.
        launch::hide(&mut command, &services.data, Some(directory.path()), &services.secret_files)
            .map_err(spawn)?;
        let child = self.spawner.spawn(command).await.map_err(spawn)?;
        drop(port);
        if let Some(pid) = child.id()
            && let Err(error) = Identity::of(pid).and_then(|it| it.save(&directory.process()))
        {
            // Only needed to end the job after a crash of ours.
            tracing::warn!(job = %job.id, %error, "cannot record the process of a job");
        }
        Ok(child)
    }

    /// Waits for the end of a job, or ends it; then sees to its record and its directory.
    async fn watch(self: Arc<Self>, job: Uuid, mut child: Child, running: Running) {
        let directory = self.directory(job);
        let log = directory.log();
        let mut paused = false;
        let waited = tokio::select! {
            waited = child.wait() => waited,
            never = keep_short(&log) => match never {},
            _ = running.stop.cancelled() => {
                paused = self.is_to_be_paused(job, &directory);
                if paused { pause(&mut child).await } else { end(&job.to_string(), &mut child).await }
            }
        };
        process::end_leftovers(job);
        remove(&directory.process());
        if paused {
            tracing::info!(%job, "stopping the job; it continues when standalone is started again");
            return self.leave(job, &running);
        }
        self.setup.services.grants.take(job).await;
        let reason = match waited {
            Ok(status) => format!("the agent ended with {}", describe(status)),
            Err(error) => format!("cannot wait for the agent: {error}"),
        };
        let reason = format!("{reason}, see {}", log.display());
        self.conclude(job, &reason, &running.stop).await;
        self.clear(job, &directory).await;
        self.leave(job, &running);
    }

    /// Whether a job is only interrupted: standalone ends, and a user's work is there.
    fn is_to_be_paused(&self, job: Uuid, directory: &Directory) -> bool {
        let state = State::load(&Layout::new(&directory.mnt()));
        let worked = state.is_ok_and(|it| {
            it.is_some_and(|state| state.is_made() && state.job_id == job.to_string())
        });
        worked && self.jobs().closed
    }

    /// The tree of a job that succeeded is of no use; that of one that failed is kept for a retry.
    async fn clear(&self, job: Uuid, directory: &Directory) {
        let record = self.setup.records.get::<Job>(job).await;
        if !matches!(record, Ok(Some(Job { status: Status::Success, .. }))) {
            return;
        }
        let directory = directory.clone();
        let removed = tokio::task::spawn_blocking(move || directory.remove_mnt()).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%job, %error, "cannot remove the tree of a job");
        }
    }
}

/// Where each job finds its own directory; everyone may pass it, as in a pod.
pub fn make_mount_point() -> io::Result<()> {
    let path = Path::new(IMAGE_ROOT_PARENT);
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path)?;
    path.ancestors().take(2).try_for_each(data::let_pass)
}

/// SIGKILL: the agent does not report the end of its job, and its directory stays as it is.
async fn pause(child: &mut Child) -> io::Result<ExitStatus> {
    if let Some(pid) = child.id() {
        launch::kill_group(pid);
    }
    child.wait().await
}

/// SIGTERM, time to tidy up, SIGKILL.
pub async fn end(job: &str, child: &mut Child) -> io::Result<ExitStatus> {
    let Some(pid) = child.id() else { return child.wait().await };
    launch::terminate(pid);
    match tokio::time::timeout(GRACE, child.wait()).await {
        Ok(waited) => waited,
        Err(_) => {
            tracing::warn!(job, pid, "the job did not end after SIGTERM, killing it");
            launch::kill_group(pid);
            child.wait().await
        }
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Removes a file that may not be there.
fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a file");
    }
}
