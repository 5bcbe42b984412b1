//! The time in which the user works on the image: sessions open, a signal arrives, sessions close.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::entrance::Visit;
use super::grace::{self, Check, Grace, Trouble};
use super::listen::Bound;
use super::package::blocking;
use super::report::Reporter;
use super::script::Script;
use super::{Job, control, limits, rights};
use crate::contract::{self, vars};
use crate::jail::network::Filter;
use crate::jail::{self, Jail, Leftovers, Plan, Rights};
use crate::remote::node::Pod;
use crate::remote::wire::ToPod;
use crate::ssh::authorized_keys::AuthorizedKeys;
use crate::ssh::hostkeys::HostKeys;
use crate::ssh::{self, Server};
use crate::telemetry::status::Board;
use crate::watch::{Kind, Places, Signal, Signals};
use crate::workspace::Layout;
use ims_client::{Arch, Status};
use linux::capability::CapSet;

/// Time that sessions have to end by themselves after the notice.
pub(super) const SESSION_GRACE: Duration = Duration::from_secs(5);

/// Time that processes which sessions left running have between SIGTERM and SIGKILL.
const PROCESS_GRACE: Duration = Duration::from_secs(3);

/// How old the number of sessions in the metrics may be.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// Who is notified that users can log in.
pub(super) enum Told {
    Ims(Arc<Reporter>),
    /// Another container of the pod, which sees for itself, tells IMS.
    OtherContainer,
    /// The job's status stays what it is.
    Nobody,
    /// The pod whose remote build node this is, and the port on which it finds the sessions.
    Pod(Arc<Pod>, u16),
}

/// What sessions are like and who hears of them.
pub(super) struct Host {
    /// `IMAGE_ROOT_PARENT`.
    pub parent: PathBuf,
    pub job_id: Uuid,
    pub arch: Arch,
    pub session: contract::Session,
    /// By [`secrets`].
    pub secrets: Vec<PathBuf>,
    pub rights: Rights,
    pub forwarding: ssh::Forwarding,
    /// A directory for recordings of terminals.
    pub record: Option<PathBuf>,
    pub limits: limits::TimeLimits,
    /// How long users have to repair an image that cannot be packaged.
    pub grace: grace::Limits,
    /// From when on the deadline counts.
    pub started: Instant,
    pub told: Told,
    pub board: Board,
    pub stop: CancellationToken,
}

impl Host {
    /// Sessions in the container of the whole job.
    pub fn of(job: &Job, visit: Visit) -> Self {
        Self {
            parent: job.contract.image_root_parent.clone(),
            job_id: job.contract.job_id,
            arch: job.contract.image.arch,
            session: job.contract.session.clone(),
            secrets: secrets(
                job.contract.ims.oauth_dir.clone(),
                Some(&job.contract.s3.credentials_dir),
            ),
            rights: job.options.rights.clone(),
            forwarding: job.options.forwarding,
            record: job.options.record.clone(),
            limits: job.options.limits,
            grace: (&job.contract.safekeeping).into(),
            started: job.started,
            told: visit.told,
            board: job.reporter.board.clone(),
            stop: visit.stop,
        }
    }
}

/// Files that the pod mounts for the agent and not for its users.
pub(super) fn secrets(oauth_dir: PathBuf, s3_credentials: Option<&Path>) -> Vec<PathBuf> {
    let s3_credentials = s3_credentials.unwrap_or(Path::new(contract::files::S3_CREDENTIALS));
    let mounted = [oauth_dir, contract::files::REMOTE_KEYS.into(), s3_credentials.to_owned()];
    mounted.into_iter().filter(|path| path.exists()).collect()
}

/// What the user works on.
pub(super) struct Site {
    pub root: PathBuf,
    /// The agent's own directory.
    pub agent: PathBuf,
    /// The text for the user.
    pub purpose: String,
    /// Run once the shell is up.
    pub script: Option<PathBuf>,
    /// What is looked at when a user says `complete`, and shown at login.
    pub check: Option<Check>,
    /// Why users are let in once more.
    pub trouble: Option<Trouble>,
}

/// Who may come in, and how the server proves itself.
#[derive(Clone)]
pub(super) struct Door {
    pub authorized_keys: AuthorizedKeys,
    pub host_keys: HostKeys,
}

/// Reads the user's keys: before anything is fetched, as nobody could log in without.
pub(super) fn authorized_keys(path: &Path) -> anyhow::Result<AuthorizedKeys> {
    AuthorizedKeys::load(path).context("nobody can log in to this job")
}

/// Finds the host's keys of an earlier run, or makes them: seconds of work, beside the fetch.
pub(super) async fn host_keys(parent: &Path, board: &Board) -> anyhow::Result<HostKeys> {
    let layout = Layout::new(parent);
    let keys = blocking(move || {
        layout
            .make_agent_dir()
            .with_context(|| format!("cannot use {}", layout.parent().display()))?;
        Ok(HostKeys::load_or_make(&layout.host_keys())?)
    })
    .await?;
    let fingerprints = keys.public().fingerprints();
    for (kind, fingerprint) in &fingerprints {
        tracing::info!(kind, fingerprint, "ssh host key");
    }
    board.set_host_keys(fingerprints);
    Ok(keys)
}

/// Lets the user in, waits for the signal, and sees everybody out. When this returns no session, no
/// process and no mount of a session is left, whatever the result.
pub(super) async fn serve(
    host: &Host,
    site: &Site,
    bound: &mut Bound,
    door: Door,
) -> anyhow::Result<Signal> {
    let root = host.session.jail.then(|| site.root.clone());
    let filter = rights::filter(&host.rights, bound.port()).await?;
    let jail = establish(host, root, filter.clone()).await?;
    let result = serve_with_script(host, site, bound, door, &jail, filter.clone()).await;
    close(jail).await?;
    rights::remove(filter).await;
    result
}

/// Ends what sessions have left in the jail, and the jail.
pub(super) async fn close(jail: Jail) -> anyhow::Result<()> {
    let leftovers = blocking(move || Ok(jail.close(PROCESS_GRACE))).await?;
    tell_leftovers(&leftovers);
    let stuck: Vec<_> = leftovers.stuck.iter().map(ToString::to_string).collect();
    anyhow::ensure!(
        stuck.is_empty(),
        "cannot end processes of sessions, so the image may still change: {}",
        stuck.join(", ")
    );
    anyhow::ensure!(
        leftovers.additions.is_empty(),
        "cannot remove the files of the sessions from the image: {:?}",
        leftovers.additions
    );
    Ok(())
}

/// Serves, with the script where there is one; its own place is closed as that of the sessions is.
async fn serve_with_script(
    host: &Host,
    site: &Site,
    bound: &mut Bound,
    door: Door,
    jail: &Jail,
    filter: Option<Filter>,
) -> anyhow::Result<Signal> {
    let Some(path) = site.script.clone() else {
        return serve_in(host, site, bound, door, jail, None).await;
    };
    let script = Script::prepare(host, path, jail, filter).await?;
    let result = serve_in(host, site, bound, door, jail, Some(&script)).await;
    if let Some(own) = script.own {
        close(own).await?;
    }
    result
}

async fn serve_in(
    host: &Host,
    site: &Site,
    bound: &mut Bound,
    door: Door,
    jail: &Jail,
    script: Option<&Script>,
) -> anyhow::Result<Signal> {
    if site.trouble.is_some() {
        // The one that has been followed.
        places(host, site).take_back_complete().context("cannot remove the file `complete`")?;
    }
    let mut signals = watch_signals(host, site)?;
    let listener = bound.listen()?;
    let address =
        listener.local_addr().context("cannot determine the address of the SSH server")?;
    let config = ssh::Config {
        host_keys: door.host_keys,
        authorized_keys: door.authorized_keys,
        jail: jail.clone(),
        motd: motd(host, site),
        forwarding: host.forwarding,
        limits: ssh::Limits::default(),
        spill_directory: site.agent.clone(),
        record: host.record.clone(),
    };
    let server = Server::start(listener, config, CancellationToken::new())?;
    tracing::info!(%address, jailed = host.session.jail, "ssh server is listening");
    let _control = control::serve(&Layout::new(&host.parent), server.clone())?;
    let signal = tokio::select! {
        signal = until_signal(host, site, &mut signals, &server) => signal,
        struck = limits::watch(host.limits, host.started, &server) => Err(struck.into()),
        never = count_sessions(host, &server) => match never {},
        never = run_script(script) => match never {},
    };
    server.close(farewell(&signal), SESSION_GRACE).await;
    // Who touched `complete` may have touched `failed` right after: that one wins.
    let last_word = signals.next().now_or_never().filter(|signal| signal.kind == Kind::Failed);
    last_word.map_or(signal, Ok)
}

fn places(host: &Host, site: &Site) -> Places {
    Places { parent: host.parent.clone(), root: site.root.clone(), build_failed: false }
}

fn watch_signals(host: &Host, site: &Site) -> anyhow::Result<Signals> {
    Signals::start(places(host, site)).context("cannot watch for the signal files")
}

/// Reports that users can log in and waits for the signal file. A `complete` of an image that cannot be
/// packaged is taken back: its users have a while to repair it.
async fn until_signal(
    host: &Host,
    site: &Site,
    signals: &mut Signals,
    server: &ssh::Handle,
) -> anyhow::Result<Signal> {
    report_open(host).await?;
    let mut grace = match &site.trouble {
        Some(Trouble::Image(reason)) => Some(Grace::begin(reason.clone(), host.grace)),
        Some(Trouble::Site(_)) | None => None,
    };
    loop {
        let over = async {
            match &mut grace {
                Some(grace) => grace.over(server, &host.board).await,
                None => std::future::pending().await,
            }
        };
        let signal = tokio::select! {
            biased;
            signal = host.stop.run_until_cancelled(signals.next()) => signal,
            error = over => {
                host.board.set_hold(None);
                return Err(error);
            }
        };
        let signal = signal.context("cancelled while the user worked")?;
        let faults = match signal.kind {
            Kind::Complete => faults(site).await?,
            _ => Vec::new(),
        };
        if faults.is_empty() {
            if grace.is_some() {
                host.board.set_hold(None);
            }
            return Ok(signal);
        }
        let begun = Grace::begin(faults.join("\n"), host.grace);
        for fault in &faults {
            tracing::error!("the image cannot be packaged: {fault}");
        }
        places(host, site).take_back_complete().context("cannot remove the file `complete`")?;
        // Anew: the next `complete` is another one, however soon it comes.
        *signals = watch_signals(host, site)?;
        server.notice(&begun.notice(&grace::complete_file(host.session.jail, &host.parent)));
        grace = Some(begun);
    }
}

/// What stands against packaging the image.
async fn faults(site: &Site) -> anyhow::Result<Vec<String>> {
    let Some(check) = site.check.clone() else { return Ok(Vec::new()) };
    let (root, agent) = (site.root.clone(), site.agent.clone());
    blocking(move || Ok(check.faults(&root, &agent))).await
}

/// Reports that users can log in, to whom it concerns.
async fn report_open(host: &Host) -> anyhow::Result<()> {
    match &host.told {
        Told::Ims(reporter) => reporter.enter(Status::WaitingOnUser).await?,
        Told::OtherContainer => host.board.set_status(Status::WaitingOnUser),
        Told::Nobody => {}
        Told::Pod(pod, port) => pod.say(ToPod::Open { port: *port }).await,
    }
    Ok(())
}

async fn run_script(script: Option<&Script>) -> Infallible {
    match script {
        Some(script) => script.run().await,
        None => std::future::pending().await,
    }
}

/// A directory that only root may enter, if it is not there yet.
pub(super) fn make_private(directory: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Keeps the metrics' number of sessions up to date.
async fn count_sessions(host: &Host, server: &ssh::Handle) -> Infallible {
    let mut interval = tokio::time::interval(COUNT_INTERVAL);
    loop {
        interval.tick().await;
        host.board.set_sessions(server.sessions().len());
    }
}

/// Sets up where sessions run: inside `root`, or in the container.
pub(super) async fn establish(
    host: &Host,
    root: Option<PathBuf>,
    filter: Option<Filter>,
) -> anyhow::Result<Jail> {
    enter(jail::Options {
        root,
        dkms: host.session.dkms,
        masks: host.secrets.clone(),
        agent_dir: Some(Layout::new(&host.parent).agent()),
        env: environment(host),
        filter,
        more: host.rights.capabilities(),
    })
    .await
}

/// Makes what sessions run in; [`close`] ends it.
pub(super) async fn enter(options: jail::Options) -> anyhow::Result<Jail> {
    let jail = blocking(move || {
        let held = CapSet::effective().context("cannot read this process's capabilities")?;
        let plan = Plan::new(options, held)?;
        Ok(Jail::establish(plan)?)
    })
    .await
    .context("cannot set up the sessions")?;
    tracing::info!("{}", jail.description());
    Ok(jail)
}

/// What every session finds in its environment (contract section 2).
fn environment(host: &Host) -> Vec<(OsString, OsString)> {
    let python_bool = |value| if value { "True" } else { "False" };
    let session = &host.session;
    [
        (vars::session::IMS_JOB_ID, host.job_id.to_string()),
        (vars::session::IMS_ARCH, host.arch.to_string()),
        (vars::session::IMS_DKMS_ENABLED, python_bool(session.dkms).to_owned()),
        (vars::session::REMOTE_BUILD_NODE, session.remote_build_node.clone()),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into()
}

fn motd(host: &Host, site: &Site) -> ssh::Motd {
    let parent = host.parent.display();
    let (place, signals) = if host.session.jail {
        ("This session is inside the image.".to_owned(), "/tmp".to_owned())
    } else {
        (format!("The image root is {}.", site.root.display()), parent.to_string())
    };
    let text = format!(
        "IMS job {}: {}\n{place}\nWhen you are done: touch {signals}/{}\n\
         To give up:        touch {signals}/{}\n",
        host.job_id,
        site.purpose,
        crate::watch::COMPLETE,
        crate::watch::FAILED,
    );
    let trouble = site.trouble.clone();
    let (check, root, agent) = (site.check.clone(), site.root.clone(), site.agent.clone());
    ssh::Motd::new(move || {
        let faults = check.as_ref().map(|check| check.faults(&root, &agent)).unwrap_or_default();
        let mut text = text.clone();
        if let Some(Trouble::Image(why) | Trouble::Site(why)) = &trouble {
            text += &format!("THIS JOB IS HELD: {why}\n");
        }
        for fault in faults {
            text += &format!("THE IMAGE CANNOT BE PACKAGED as it is: {fault}\n");
        }
        text
    })
}

/// The notice to sessions before they close.
fn farewell(signal: &anyhow::Result<Signal>) -> &'static str {
    match signal {
        Ok(Signal { kind: Kind::Complete, .. }) => {
            "The image is being packaged. This session ends now.\n"
        }
        Ok(_) => "The job was given up. This session ends now.\n",
        Err(_) => "The job ends without a complete image. This session ends now.\n",
    }
}

fn tell_leftovers(leftovers: &Leftovers) {
    for process in &leftovers.processes {
        tracing::warn!(
            pid = process.pid,
            name = process.name,
            "killed a process that a session left running"
        );
    }
    for mount in &leftovers.mounts {
        tracing::warn!(mount, "unmounted a mount that a session left behind");
    }
}
