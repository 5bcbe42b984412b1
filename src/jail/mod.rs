//! What a session sees: the plan (pure data) and the entry (a re-exec of our own binary).
//!
//! `job` establishes one `Jail` and gives it to `ssh`, which starts every session's process through
//! it. `plan` decides, `init` (a separate process, started through `main`) executes the plan, and
//! `init_client` is the connection between the two. Knows nothing of SSH.

mod account;
mod child;
mod close;
mod enter;
mod env;
mod first;
mod fixtures;
mod init;
mod init_client;
mod line;
mod mounts;
pub mod network;
mod plan;
mod rights;
mod session;
mod socket;
mod wire;

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

pub use account::Account;
pub use child::Child;
pub use close::Leftovers;
pub use fixtures::remove_leftovers;
pub use init_client::ENTRY;
pub use plan::{Impossible, Options, Plan, Shape, UNFILTERED};
pub use rights::{Capability, Rights};
pub use socket::SocketFile;

use fixtures::RootAdditions;
use init_client::InitClient;
use line::End;
use linux::capability::CapSet;
use linux::dir::Dir;
use linux::process::mark;
use linux::pty::Pty;
use linux::{hardening, landlock};
use wire::{Bytes, ChildProgram, Request};

/// What a session runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// The account's shell, as a login shell: its `argv[0]` begins with a dash.
    LoginShell,
    /// The account's shell with `-c` and this.
    Command(Vec<u8>),
    /// Our SFTP server, which needs nothing of the image.
    Sftp,
}

/// What becomes the session's descriptors 0, 1 and 2.
pub enum Stdio3 {
    Pipes { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
    Pty { slave: OwnedFd },
}

/// One session to start. `env` is added to the account's and the job's variables.
pub struct Spawn {
    pub program: Program,
    pub env: Vec<(OsString, OsString)>,
    pub stdio: Stdio3,
}

/// Why there is no jail, or no session in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Impossible(#[from] Impossible),
    #[error("cannot copy the program's own binary into memory for the sessions to run from")]
    Binary(#[source] io::Error),
    #[error("cannot read the image root {}", path.display())]
    Root { path: PathBuf, source: io::Error },
    #[error("cannot create the mount points or devices that sessions need in the image")]
    RootAdditions { source: io::Error },
    #[error("cannot start the process that starts sessions")]
    Start { source: io::Error },
    #[error("cannot set up the environment of sessions: {what}")]
    SetUp { what: String, source: io::Error },
    #[error(
        "{}, the login shell of {} in etc/passwd, is not in the image or lacks its loader: \
         install it, or use sftp, which needs no shell",
        shell.display(), name.display()
    )]
    NoShell { shell: PathBuf, name: OsString, source: io::Error },
    #[error("cannot start the session: {what}")]
    Refused { what: String, source: io::Error },
    #[error("the process that starts sessions has ended")]
    Gone,
    #[error("the process that starts sessions did not respond for {} s", .0.as_secs())]
    Unresponsive(Duration),
    #[error("the job accepts no more sessions")]
    Closed,
    #[error(
        "the network filter has no effect, sessions could reach the services of this host; \
         {UNFILTERED}"
    )]
    Unfiltered,
}

/// The place where all sessions of a job live. Clones are the same jail.
#[derive(Clone, Debug)]
pub struct Jail(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    plan: Plan,
    account: Account,
    exe: OwnedFd,
    /// By what its processes are known, should the agent be killed.
    mark: OsString,
    /// `None` once closed.
    init: Mutex<Option<Arc<InitClient>>>,
    fixtures: Mutex<RootAdditions>,
}

impl Jail {
    /// Sets the jail up by the plan. Where the namespaces are refused (a security module, an old
    /// kernel) it does with what can be had, and says so; see `description`. Blocks.
    pub fn establish(plan: Plan) -> Result<Jail, Error> {
        let exe = hardening::sealed_self_exe().map_err(Error::Binary)?;
        let account = account(&plan)?;
        let plan = drop_unsupported_hiding(plan);
        let mark = mark(&plan)?;
        let (plan, (init, fixtures)) = match start(&exe, &plan, &mark) {
            Err(error) if plan.shape == Shape::Namespaces && plan.filter().is_none() => {
                let reason = crate::telemetry::chain(&error);
                tracing::warn!(reason, "sessions get no namespaces");
                let held = CapSet::effective().map_err(|source| Error::Start { source })?;
                let plan = drop_unsupported_hiding(plan.without_namespaces(held)?);
                let started = start(&exe, &plan, &mark)?;
                (plan, started)
            }
            other => (plan, other?),
        };
        for note in &init.notes {
            tracing::warn!(note, "jail");
        }
        let init = Arc::new(init);
        let (slot, fixtures) = (Mutex::new(Some(init.clone())), Mutex::new(fixtures));
        let jail = Jail(Arc::new(Inner { plan, account, exe, mark, init: slot, fixtures }));
        jail.replace_at_its_end(&init);
        if jail.is_filtered()
            && let Err(error) = jail.prove_filter()
        {
            jail.close(Duration::ZERO);
            return Err(error);
        }
        Ok(jail)
    }

    /// Whether sessions are kept from the services of this host.
    pub fn is_filtered(&self) -> bool {
        self.0.plan.filter().is_some()
    }

    /// Tries from inside what must not be possible: that the kernel accepted the filter proves
    /// nothing.
    fn prove_filter(&self) -> Result<(), Error> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = listener.map_err(|source| Error::Start { source })?;
        let address = listener.local_addr().map_err(|source| Error::Start { source })?;
        match self.connect_tcp(address) {
            Err(Error::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(Error::Unfiltered),
        }
    }

    /// One line for the log: which separation was obtained.
    pub fn description(&self) -> String {
        self.0.plan.description()
    }

    /// Home, shell and name of uid 0, as the image's passwd (unjailed: the container's) says.
    pub fn account(&self) -> &Account {
        &self.0.account
    }

    /// A new terminal of the jail's own devpts where it has one. Blocks briefly.
    pub fn open_pty(&self) -> Result<Pty, Error> {
        let (_, (_, fds, _)) = self.ask(|id| Request::OpenPty { id }, &[])?;
        let Ok([master, slave]) = <[OwnedFd; 2]>::try_from(fds) else {
            return Err(Error::Gone);
        };
        Pty::of(master, slave)
            .map_err(|source| Error::Refused { what: "open a terminal".into(), source })
    }

    /// Starts a session's process; returns once it runs or could not be started. Blocks briefly.
    pub fn spawn(&self, spawn: Spawn) -> Result<Child, Error> {
        let account = &self.0.account;
        let pair = |(name, value): (OsString, OsString)| (Bytes::of(&name), Bytes::of(&value));
        let own = std::iter::once((mark::VARIABLE.into(), self.0.mark.clone()));
        let job: Vec<_> = self.0.plan.env.iter().cloned().chain(own).collect();
        let env = env::build(account, &job, spawn.env);
        let env: Vec<_> = env.into_iter().map(pair).collect();
        let home = Bytes::of(account.home.as_os_str());
        let program = program(account, spawn.program);
        let fds = match &spawn.stdio {
            Stdio3::Pipes { stdin, stdout, stderr } => {
                vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]
            }
            Stdio3::Pty { slave } => vec![slave.as_fd()],
        };
        let request = |id| {
            let (program, env, home) = (program.clone(), env.clone(), home.clone());
            Request::Spawn { id, program, env, home }
        };
        let (init, (id, _, exited)) =
            self.ask(request, &fds).map_err(|error| self.explain(error))?;
        Ok(Child { id, init, exited: child::Exited::Waiting(exited) })
    }

    /// Sends a request to the running init. If that init ends before its reply, and everything it
    /// started with it, the next init gets the request.
    fn ask(
        &self,
        request: impl Fn(u64) -> Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Arc<InitClient>, Answer), Error> {
        let init = self.init()?;
        let answer = init.call(&request, fds);
        let again = match answer {
            // Without a namespace the requested process may be running, and may have ended init.
            Err(Error::Gone) => self.0.plan.shape == Shape::Namespaces,
            Err(Error::Unresponsive(_)) => init.line.ended().is_some(),
            _ => false,
        };
        if !again {
            return answer.map(|answer| (init, answer));
        }
        let init = self.init()?;
        init.call(&request, fds).map(|answer| (init, answer))
    }

    /// A missing shell is the one failure that users of small images meet.
    fn explain(&self, error: Error) -> Error {
        let Account { name, shell, .. } = self.0.account.clone();
        match error {
            Error::Refused { what, source }
                if what.starts_with("execute") && source.kind() == io::ErrorKind::NotFound =>
            {
                Error::NoShell { shell, name, source }
            }
            other => other,
        }
    }

    /// The running init. One that has ended (a user may kill it, or it did not answer) has ended all
    /// sessions; there is a new one then.
    fn init(&self) -> Result<Arc<InitClient>, Error> {
        let mut slot = self.slot();
        let init = slot.as_ref().ok_or(Error::Closed)?;
        match init.line.ended() {
            None => return Ok(init.clone()),
            Some(End::Gone) => {
                tracing::warn!("the process that starts sessions was killed: starting another");
            }
            Some(End::Unresponsive) => tracing::warn!(
                "the process that starts sessions did not respond, so it was killed and all \
                 sessions with it: starting another"
            ),
        }
        init.reap();
        close::end_strays(&self.0.plan);
        let init = Arc::new(InitClient::start(&self.0.exe, &self.0.plan, &self.0.mark)?);
        *slot = Some(init.clone());
        drop(slot);
        self.replace_at_its_end(&init);
        Ok(init)
    }

    /// As soon as this init has ended, ends the processes that it left and starts another init,
    /// even if no session is requested.
    #[allow(clippy::disallowed_methods, reason = "the thread that follows init sleeps")]
    fn replace_at_its_end(&self, init: &InitClient) {
        let jail = Arc::downgrade(&self.0);
        let started = Instant::now();
        init.line.on_end(Box::new(move || {
            let Some(inner) = jail.upgrade() else { return };
            if started.elapsed() < RESTART_PAUSE {
                // Who kills every new one does not get a busy agent.
                std::thread::sleep(RESTART_PAUSE);
            }
            match Jail(inner).init() {
                // The next session tries again, and gets the error.
                Err(error) if !matches!(error, Error::Closed) => {
                    tracing::warn!("{}", crate::telemetry::chain(&error));
                }
                _ => {}
            }
        }));
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<InitClient>>> {
        // Whole at any time: the slot is only ever replaced.
        self.0.init.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends what sessions left running (SIGTERM, after `grace` SIGKILL), then the jail itself; its
    /// mounts go with it. No session can be started afterwards. Blocks; a second call does nothing.
    pub fn close(&self, grace: Duration) -> Leftovers {
        let Some(init) = self.slot().take() else { return Leftovers::default() };
        let mut leftovers = close::close(&init, &self.0.plan, grace);
        let mut fixtures = self.0.fixtures.lock().unwrap_or_else(PoisonError::into_inner);
        leftovers.additions = std::mem::take(&mut *fixtures).take_out();
        leftovers
    }
}

/// How long an init must have lived to be replaced at once.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// A number, descriptors, and a receiver for the exit.
type Answer = (u64, Vec<OwnedFd>, oneshot::Receiver<ExitStatus>);

/// Of the agent's directory where the job has one, else of where sessions are.
fn mark(plan: &Plan) -> Result<OsString, Error> {
    let place = plan.agent_dir().filter(|path| path.exists()).or(plan.root.as_deref());
    let place = place.unwrap_or(Path::new("/"));
    let mark = mark::ours(place);
    mark.map(OsString::from).map_err(|source| Error::Root { path: place.into(), source })
}

/// If secrets cannot be hidden the job continues with a warning, since IMS's pods are like that by
/// default.
fn drop_unsupported_hiding(mut plan: Plan) -> Plan {
    if plan.hide.is_empty() || landlock::can_hide() {
        return plan;
    }
    tracing::warn!(
        visible = ?plan.hide,
        "SESSIONS CAN READ SECRETS OF THIS POD: it lacks CAP_SYS_ADMIN and the kernel lacks Landlock \
         (Linux 5.19); to avoid it use SSH_JAIL=True or JOB_ENABLE_DKMS=True, or run agent and \
         sessions in two containers"
    );
    plan.hide.clear();
    plan
}

/// Puts into the image what the jail needs there and starts init; leaves nothing if that fails.
fn start(exe: &OwnedFd, plan: &Plan, mark: &OsStr) -> Result<(InitClient, RootAdditions), Error> {
    if plan.shape == Shape::Plain {
        // What is below an init that a user kills must not be lost from sight.
        hardening::become_subreaper().map_err(|source| Error::Start { source })?;
    }
    let fixtures = RootAdditions::put_in(plan).map_err(|source| Error::RootAdditions { source })?;
    match InitClient::start(exe, plan, mark) {
        Ok(init) => Ok((init, fixtures)),
        Err(error) => {
            fixtures.take_out();
            Err(error)
        }
    }
}

fn account(plan: &Plan) -> Result<Account, Error> {
    let path = plan.root.clone().unwrap_or_else(|| "/".into());
    Dir::open(&path)
        .and_then(|root| Account::of_root_in(&root))
        .map_err(|source| Error::Root { path, source })
}

fn program(account: &Account, program: Program) -> ChildProgram {
    let base = account.shell.file_name().unwrap_or(OsStr::new("sh"));
    let path = Bytes::of(account.shell.as_os_str());
    match program {
        Program::Sftp => ChildProgram::Sftp,
        Program::LoginShell => {
            let mut name = OsString::from("-");
            name.push(base);
            ChildProgram::Exec { path, argv: vec![Bytes::of(&name)] }
        }
        Program::Command(command) => {
            let argv = vec![Bytes::of(base), Bytes(b"-c".to_vec()), Bytes(command)];
            ChildProgram::Exec { path, argv }
        }
    }
}

/// What `ENTRY` as the first argument leads to: this process is to be a jail's init. Its stdin is
/// the socket to the agent. Called by main before anything else; does not return.
pub fn entry() -> ! {
    // Whatever the agent had open and did not mark: it ends here.
    let closed = linux::exec::close_from(3);
    let socket = closed.and_then(|()| io::stdin().as_fd().try_clone_to_owned());
    let result = socket.and_then(|socket| init::run(socket.into()));
    linux::exec::exit_now(i32::from(result.is_err()))
}

#[cfg(test)]
mod tests;
