//! The whole way of a job, and an end that is always reported.
//!
//! This room alone knows the order of things; every step is another room's. A customize job that is
//! served and published by one container goes this way; read the functions in this order:
//!
//! 1. [`run`] sets up the client of IMS. Whatever happens from here on, `Reporter::conclude` reports it.
//! 2. `published::before`: a job that an earlier run of the agent has published is not done again.
//! 3. `customize::run` claims the job's directory, looks whether an earlier run got as far as letting users
//!    in (then it goes on from there), and takes the port and the keys of the users (`access`), so that what
//!    is missing is known before anything is fetched.
//! 4. `preflight` writes to the bucket of the result, before anybody works for what could not be kept.
//! 5. `fetch` downloads the image, `workspace::open` makes an image root of it.
//! 6. `work` does the rest, again where users can repair why it failed:
//!    `customize::attend` prepares the root, serves sessions until a signal and restores the root (all three
//!    are `attend`'s); `package` packs it and publishes it; `hold` waits where IMS or the store is to be
//!    repaired; `rescue` saves the work of a job that fails.
//! 7. The workspace is closed: an image root that was published is removed, another one stays.
//! 8. `report` sets the terminal status and prints the result.
//!
//! A create job (`create`) builds its root from a recipe and lets users in only if that fails. With a remote
//! build node (`remote`) steps 5 and 6 are the node's, but for publishing. In a pod of several containers
//! (`pod`) the sessions of step 6 are served by another one.

mod access;
mod base;
pub mod configure;
pub mod connect;
mod create;
mod customize;
mod emulation;
mod fetch;
mod hold;
mod package;
mod pod;
mod preflight;
mod published;
mod remote;
mod repackage;
mod report;
mod rescue;
mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::contract::{Action, Engine, Faults, ImsAccess, JobContract};
use crate::jail;
use crate::publish::Published;
use crate::ssh;
use crate::telemetry::chain;
use crate::telemetry::status::Board;
use crate::workspace;
use linux::process::Reaper;
use s3_client::Store;

pub use crate::attend::limits::TimeLimits;
pub use crate::attend::listen::Listen;
pub use pod::{SessionServer, serve_sessions, steps};
pub use remote::work_for_pod;
pub use repackage::{Repackaging, repackage};
use report::Reporter;
pub use report::{End, Outcome};

/// What the command line adds to the environment of a job.
#[derive(Debug)]
pub struct Options {
    pub ssh_listen: Listen,
    pub sessions: Sessions,
    /// Other containers have done a create job's steps up to the build.
    pub after_build: bool,
    pub authorized_keys: PathBuf,
    pub workspace: workspace::Mode,
    pub engine: Engine,
    /// The values of a recipe's templates.
    pub template_dictionary: PathBuf,
    /// Every file in it is a key that packages of a recipe may be signed with.
    pub signing_keys: PathBuf,
    /// Where the package of the CA certificate is made.
    pub ca_rpm: PathBuf,
    /// The home directory, where a site may have configured kiwi.
    pub home: Option<PathBuf>,
    pub forwarding: ssh::Forwarding,
    /// A directory for recordings of terminals.
    pub record: Option<PathBuf>,
    pub limits: TimeLimits,
    pub rights: jail::Rights,
    /// The keys for root on a remote build node.
    pub remote_keys: PathBuf,
    /// This program for nodes of other architectures.
    pub remote_programs: PathBuf,
    /// The job's volume is not removed when the job has ended, as IMS does it in a cluster.
    pub volume_stays: bool,
}

/// Which container serves the sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Sessions {
    /// This container.
    #[default]
    Here,
    /// A container that runs `ims-job-agent sessions` in the same pod.
    Separate,
}

/// A job on its way.
struct Job {
    contract: JobContract,
    options: Options,
    reporter: Arc<Reporter>,
    started: Instant,
    /// The store did not remove what was written to see whether it can be written.
    probe_left: AtomicBool,
}

/// Runs the job to its end and always reports its terminal status to IMS.
pub async fn run(
    contract: JobContract,
    options: Options,
    board: Board,
    stop: CancellationToken,
) -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let job_id = Some(contract.job_id.to_string());
    let reporter = match Reporter::connect(&contract.ims, job_id, board, stop) {
        Ok(reporter) => Arc::new(reporter.with_patience(contract.safekeeping.hold)),
        Err(error) => return Ok(Outcome::without_ims(&error)),
    };
    tokio::spawn(reap_orphans());
    let separate =
        (options.sessions == Sessions::Separate).then(|| contract.image_root_parent.clone());
    let probe_left = AtomicBool::new(false);
    let job = Job { contract, options, reporter: reporter.clone(), started, probe_left };
    let work = async move {
        let store = connect::store(&job.contract.s3, job.contract.ims.timeout)?;
        let before = Box::pin(published::before(&job, &store)).await;
        let over = before.as_ref().is_err_and(|error| error.is::<published::Over>());
        if over || matches!(before, Ok(Some(_))) {
            // A killed run may have left it.
            preflight::remove(&job, &store).await;
        }
        if let Some(published) = before? {
            published::discard(&job).await;
            return Ok(published);
        }
        let worked = work(&job, &store).await;
        if job.probe_left.load(Ordering::Relaxed) {
            preflight::remove(&job, &store).await;
        }
        worked
    };
    let outcome = reporter.conclude(work).await;
    if let Some(parent) = separate {
        pod::end(&parent, &outcome);
    }
    Ok(outcome)
}

/// The way of the job, by what it does and where.
async fn work(job: &Job, store: &Store) -> anyhow::Result<Published> {
    if !job.contract.session.remote_build_node.is_empty() {
        return Box::pin(remote::run(job, store.clone())).await;
    }
    emulation::prepare(job.contract.image.arch).await?;
    match job.contract.action {
        Action::Customize => customize::run(job, store).await,
        Action::Create => create::run(job, store).await,
    }
}

/// Ends a job that cannot be run, for its environment is wrong. `record` is what of it is right: of which
/// job, and where IMS is.
pub async fn refuse(faults: Faults, record: Option<(Uuid, ImsAccess)>, stop: CancellationToken) {
    let faults = anyhow::Error::new(faults);
    let Some((job_id, access)) = record else {
        Outcome::without_ims(&faults);
        return;
    };
    let job_id = job_id.to_string();
    let board = Board::new(job_id.clone());
    match Reporter::connect(&access, Some(job_id), board, stop) {
        Ok(reporter) => {
            reporter.conclude(async { Err(faults) }).await;
        }
        Err(error) => {
            Outcome::without_ims(&faults.context(chain(error.as_ref())));
        }
    }
}

/// As PID 1 of a pod the agent inherits every orphan, and elsewhere what sessions leave whose init was
/// killed: it must wait for them.
async fn reap_orphans() {
    let mut reaper = Reaper::default();
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    loop {
        interval.tick().await;
        for orphan in reaper.reap() {
            tracing::debug!(pid = orphan.pid, name = orphan.name, "reaped an orphan");
        }
    }
}
