//! The time in which the user has the image: sessions open, a signal comes, sessions close.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use async_trait::async_trait;
use futures::FutureExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::grace::{self, Check, Grace, Trouble};
use super::listen::Bound;
use super::place::{self, Place};
use super::script::Script;
use super::{control, limits};
use crate::blocking::blocking;
use crate::contract::defaults::boolean_text;
use crate::contract::{self, Safekeeping, vars};
use crate::jail::{self, Jail, Rights};
use crate::ssh::authorized_keys::AuthorizedKeys;
use crate::ssh::hostkeys::HostKeys;
use crate::ssh::{self, Server};
use crate::telemetry::status::Board;
use crate::watch::{Kind, Places, Signal, Signals};
use crate::workspace::Layout;
use ims_client::Arch;

/// Time that sessions have to end by themselves after the notice.
pub(crate) const SESSION_GRACE: Duration = Duration::from_secs(5);

/// How old the number of sessions in the metrics may be.
const COUNT_INTERVAL: Duration = Duration::from_secs(1);

/// Reports that users can log in.
#[async_trait]
pub(crate) trait ReadyNotifier: Send + Sync {
    async fn ready(&self) -> anyhow::Result<()>;
}

/// What sessions are like.
pub(crate) struct SessionSettings {
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
    pub board: Board,
    pub stop: CancellationToken,
}

/// Which job it is that users work for.
pub(crate) struct JobFacts {
    /// `IMAGE_ROOT_PARENT`.
    pub parent: PathBuf,
    pub job_id: Uuid,
    pub arch: Arch,
    pub session: contract::Session,
}

impl SessionSettings {
    /// For `job`, without recordings and time limits, from now on. `secrets` are by [`secrets`].
    pub fn new(job: JobFacts, rights: Rights, board: Board, stop: CancellationToken) -> Self {
        Self {
            parent: job.parent,
            job_id: job.job_id,
            arch: job.arch,
            session: job.session,
            secrets: Vec::new(),
            rights,
            forwarding: ssh::Forwarding::default(),
            record: None,
            limits: limits::TimeLimits::default(),
            grace: (&Safekeeping::default()).into(),
            started: Instant::now(),
            board,
            stop,
        }
    }

    /// Where processes of this job run: inside `root`, or in the container.
    pub(super) fn jail(&self, root: Option<PathBuf>) -> jail::Options {
        jail::Options {
            root,
            dkms: self.session.dkms,
            masks: self.secrets.clone(),
            agent_dir: Some(Layout::new(&self.parent).agent()),
            env: environment(self),
            ..jail::Options::default()
        }
    }
}

/// Files that the pod mounts for the agent and not for its users.
pub(crate) fn secrets(oauth_dir: PathBuf, s3_credentials: Option<&Path>) -> Vec<PathBuf> {
    let s3_credentials = s3_credentials.unwrap_or(Path::new(contract::files::S3_CREDENTIALS));
    let mounted = [oauth_dir, contract::files::REMOTE_KEYS.into(), s3_credentials.to_owned()];
    mounted.into_iter().filter(|path| path.exists()).collect()
}

/// What the user works on.
pub(crate) struct Site {
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
pub(crate) struct ServerKeys {
    pub authorized_keys: AuthorizedKeys,
    pub host_keys: HostKeys,
}

/// Reads the user's keys: before anything is fetched, as nobody could log in without.
pub(crate) fn authorized_keys(path: &Path) -> anyhow::Result<AuthorizedKeys> {
    AuthorizedKeys::load(path).context("nobody can log in to this job")
}

/// Finds the host's keys of an earlier run, or makes them: seconds of work, beside the fetch.
pub(crate) async fn host_keys(parent: &Path, board: &Board) -> anyhow::Result<HostKeys> {
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

/// Lets users in, waits for the signal, and sees everybody out. When this returns no session, no
/// process and no mount of a session is left, whatever the result.
pub(crate) async fn serve(
    settings: &SessionSettings,
    site: &Site,
    bound: &mut Bound,
    keys: ServerKeys,
    on_ready: &dyn ReadyNotifier,
) -> anyhow::Result<Signal> {
    let root = settings.session.jail.then(|| site.root.clone());
    let place = Place::open(settings.jail(root), &settings.rights, bound.port()).await?;
    let attended = Attended { settings, site, place: &place, on_ready };
    let result = attended.serve_with_script(bound, keys).await;
    place.close().await?;
    result
}

/// One time in which users have the image.
struct Attended<'a> {
    settings: &'a SessionSettings,
    site: &'a Site,
    place: &'a Place,
    on_ready: &'a dyn ReadyNotifier,
}

impl Attended<'_> {
    /// Serves, with the script where there is one; its own place is closed as that of the sessions is.
    async fn serve_with_script(
        &self,
        bound: &mut Bound,
        keys: ServerKeys,
    ) -> anyhow::Result<Signal> {
        let Some(path) = self.site.script.clone() else {
            return self.serve(bound, keys, None).await;
        };
        let script = Script::prepare(self.settings, path, self.place).await?;
        let result = self.serve(bound, keys, Some(&script)).await;
        if let Some(own) = script.own {
            place::close(own).await?;
        }
        result
    }

    async fn serve(
        &self,
        bound: &mut Bound,
        keys: ServerKeys,
        script: Option<&Script>,
    ) -> anyhow::Result<Signal> {
        let Self { settings, site, .. } = self;
        if site.trouble.is_some() {
            // The one that has been followed.
            places(settings, site)
                .take_back_complete()
                .context("cannot remove the file `complete`")?;
        }
        let mut signals = watch_signals(settings, site)?;
        let listener = bound.listen()?;
        let address =
            listener.local_addr().context("cannot determine the address of the SSH server")?;
        let server = start_server(
            listener,
            keys,
            Offer {
                jail: self.place.jail.clone(),
                motd: motd(settings, site),
                forwarding: settings.forwarding,
                spill_directory: site.agent.clone(),
                record: settings.record.clone(),
            },
        )?;
        tracing::info!(%address, jailed = settings.session.jail, "ssh server is listening");
        let _control = control::serve(&Layout::new(&settings.parent), server.clone())?;
        let signal = tokio::select! {
            signal = self.until_signal(&mut signals, &server) => signal,
            struck = limits::watch(settings.limits, settings.started, &server) => Err(struck.into()),
            never = count_sessions(settings, &server) => match never {},
            never = run_script(script) => match never {},
        };
        server.close(farewell(&signal), SESSION_GRACE).await;
        // Who touched `complete` may have touched `failed` right after: that one wins.
        let last_word = signals.next().now_or_never().filter(|signal| signal.kind == Kind::Failed);
        last_word.map_or(signal, Ok)
    }

    /// Reports that users can log in and waits for the signal file. A `complete` of an image that cannot be
    /// packaged is taken back: its users have a while to repair it.
    async fn until_signal(
        &self,
        signals: &mut Signals,
        server: &ssh::Handle,
    ) -> anyhow::Result<Signal> {
        let Self { settings, site, on_ready, .. } = self;
        on_ready.ready().await?;
        let mut grace = match &site.trouble {
            Some(Trouble::Image(reason)) => Some(Grace::begin(reason.clone(), settings.grace)),
            Some(Trouble::Site(_)) | None => None,
        };
        loop {
            let over = async {
                match &mut grace {
                    Some(grace) => grace.over(server, &settings.board).await,
                    None => std::future::pending().await,
                }
            };
            let signal = tokio::select! {
                biased;
                signal = settings.stop.run_until_cancelled(signals.next()) => signal,
                error = over => {
                    settings.board.set_hold(None);
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
                    settings.board.set_hold(None);
                }
                return Ok(signal);
            }
            let begun = Grace::begin(faults.join("\n"), settings.grace);
            for fault in &faults {
                tracing::error!("the image cannot be packaged: {fault}");
            }
            places(settings, site)
                .take_back_complete()
                .context("cannot remove the file `complete`")?;
            // Anew: the next `complete` is another one, however soon it comes.
            *signals = watch_signals(settings, site)?;
            server.notice(
                &begun.notice(&grace::complete_file(settings.session.jail, &settings.parent)),
            );
            grace = Some(begun);
        }
    }
}

/// What an SSH server lets its users do.
pub(crate) struct Offer {
    pub jail: Jail,
    pub motd: ssh::Motd,
    pub forwarding: ssh::Forwarding,
    pub spill_directory: PathBuf,
    pub record: Option<PathBuf>,
}

/// Serves sessions on `listener` until the handle is closed.
pub(crate) fn start_server(
    listener: TcpListener,
    keys: ServerKeys,
    offer: Offer,
) -> io::Result<ssh::Handle> {
    let config = ssh::Config {
        host_keys: keys.host_keys,
        authorized_keys: keys.authorized_keys,
        jail: offer.jail,
        motd: offer.motd,
        forwarding: offer.forwarding,
        limits: ssh::Limits::default(),
        spill_directory: offer.spill_directory,
        record: offer.record,
    };
    Server::start(listener, config, CancellationToken::new())
}

fn places(settings: &SessionSettings, site: &Site) -> Places {
    Places { parent: settings.parent.clone(), root: site.root.clone(), build_failed: false }
}

fn watch_signals(settings: &SessionSettings, site: &Site) -> anyhow::Result<Signals> {
    Signals::start(places(settings, site)).context("cannot watch for the signal files")
}

/// What stands against packaging the image.
async fn faults(site: &Site) -> anyhow::Result<Vec<String>> {
    let Some(check) = site.check.clone() else { return Ok(Vec::new()) };
    let (root, agent) = (site.root.clone(), site.agent.clone());
    blocking(move || Ok(check.faults(&root, &agent))).await
}

async fn run_script(script: Option<&Script>) -> Infallible {
    match script {
        Some(script) => script.run().await,
        None => std::future::pending().await,
    }
}

/// A directory that only root may enter, if it is not there yet.
pub(crate) fn make_private(directory: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Keeps the metrics' number of sessions up to date.
async fn count_sessions(settings: &SessionSettings, server: &ssh::Handle) -> Infallible {
    let mut interval = tokio::time::interval(COUNT_INTERVAL);
    loop {
        interval.tick().await;
        settings.board.set_sessions(server.sessions().len());
    }
}

/// What every session finds in its environment (contract section 2).
fn environment(settings: &SessionSettings) -> Vec<(OsString, OsString)> {
    let session = &settings.session;
    [
        (vars::session::IMS_JOB_ID, settings.job_id.to_string()),
        (vars::session::IMS_ARCH, settings.arch.to_string()),
        (vars::session::IMS_DKMS_ENABLED, boolean_text(session.dkms).to_owned()),
        (vars::session::REMOTE_BUILD_NODE, session.remote_build_node.clone()),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into()
}

fn motd(settings: &SessionSettings, site: &Site) -> ssh::Motd {
    let parent = settings.parent.display();
    let (place, signals) = if settings.session.jail {
        ("This session is inside the image.".to_owned(), "/tmp".to_owned())
    } else {
        (format!("The image root is {}.", site.root.display()), parent.to_string())
    };
    let text = format!(
        "IMS job {}: {}\n{place}\nWhen you are done: touch {signals}/{}\n\
         To give up:        touch {signals}/{}\n",
        settings.job_id,
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
