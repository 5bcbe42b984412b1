//! A session's program: started here for the handler, then owned by one task until it ends.

mod pump;
mod record;
mod run;
mod stdio;

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use russh::ChannelId;
use russh::server::Handle;
use tokio::sync::{mpsc, watch};

use super::auth::{self, Grant};
use super::channel::{Control, Entry, Setup, State};
use super::connection::{Connection, Outlet};
use super::environment::environment;
use super::flow::Inbox;
use super::registry::{Activity, Identity, Live};
use crate::jail::{self, Child, Program, Spawn, Stdio3};
use linux::Signal;
use linux::pty::Window;
use record::Recorder;
use stdio::Stdio;

/// A program that has not been exec'd by then is not going to be: its file system hangs.
pub(super) const START: Duration = Duration::from_secs(20);

/// What a client asks a session to run.
#[derive(Debug)]
pub(super) enum Request {
    Shell,
    Exec(Vec<u8>),
    Subsystem(String),
}

/// Why a session was not started; the client only hears that it was not.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the channel is not a session that waits for a program")]
    NotWaiting,
    #[error("there is no subsystem {0:?}; sftp is the only one")]
    Subsystem(String),
    #[error("cannot create the program's pipes")]
    Pipes(#[source] std::io::Error),
    #[error("cannot start the program")]
    Spawn(#[source] jail::Error),
    #[error("the task that starts the program failed")]
    Panic(#[source] tokio::task::JoinError),
    #[error("the program did not start within {} s", START.as_secs())]
    Slow,
}

/// What is run in the end, after the key's forced command had its say.
struct Plan {
    program: Program,
    activity: Activity,
    /// For SSH_ORIGINAL_COMMAND.
    original: Option<Vec<u8>>,
}

/// Starts a program on channel `id`. When this returns, it has been exec'd and a task owns it.
pub(super) async fn start(
    connection: &Arc<Connection>,
    id: ChannelId,
    request: Request,
    handle: Handle,
) -> Result<(), Error> {
    let plan = plan(connection.grant.get().ok_or(Error::NotWaiting)?, request)?;
    let (control, window, signals) = control();
    let (setup, inbox, closed) = {
        let mut channels = connection.channels();
        let entry = channels.get_mut(&id).ok_or(Error::NotWaiting)?;
        let setup = take_setup(entry, control).ok_or(Error::NotWaiting)?;
        (setup, entry.inbox.clone(), entry.closed.clone())
    };
    let grant = connection.grant.get().ok_or(Error::NotWaiting)?;
    let env = environment(connection, grant, &setup, plan.original.as_deref());
    let screen = setup.terminal.as_ref().map(|terminal| (terminal.term.clone(), terminal.window));
    let (stdio, theirs) = Stdio::new(setup.terminal).map_err(Error::Pipes)?;
    let child = spawn(connection, plan.program, env, theirs).await?;
    let (live, notices) = connection.shared.registry.enter(Identity {
        connection: connection.id,
        peer: connection.peer,
        user: auth::USER.to_owned(),
        key: grant.identity.clone(),
        activity: plan.activity,
        pty: screen.is_some(),
    });
    let recorder = record(connection, &live, screen).await;
    let outlet = Arc::new(Outlet::new(setup.write, Arc::clone(connection), closed));
    let running = run::Running {
        child,
        stdio,
        inbox,
        outlet,
        handle,
        live,
        notices,
        window,
        signals,
        recorder,
    };
    tokio::spawn(running.run());
    Ok(())
}

/// Begins the recording of a terminal, where one is wanted. A failure is only logged.
async fn record(
    connection: &Connection,
    live: &Live,
    screen: Option<(String, Window)>,
) -> Option<Arc<Recorder>> {
    let (directory, (term, window)) = (connection.shared.config.record.as_ref()?, screen?);
    match Recorder::begin(directory, live, &term, window).await {
        Ok(recorder) => Some(Arc::new(recorder)),
        Err(error) => {
            let directory = directory.display();
            tracing::error!(session = live.id, %directory, %error, "cannot record a session");
            None
        }
    }
}

fn control() -> (Control, watch::Receiver<Window>, mpsc::Receiver<Signal>) {
    let (window, window_receiver) = watch::channel(Window::default());
    let (signals, signals_receiver) = mpsc::channel(32);
    (Control { window, signals }, window_receiver, signals_receiver)
}

/// From here on the channel runs something; a second request is refused.
fn take_setup(entry: &mut Entry, control: Control) -> Option<Setup> {
    entry.setup()?;
    match std::mem::replace(&mut entry.state, State::Running(control)) {
        State::Waiting(setup) => Some(setup),
        _ => None,
    }
}

fn plan(grant: &Grant, request: Request) -> Result<Plan, Error> {
    let (program, activity, original) = match request {
        Request::Shell => (Program::LoginShell, Activity::Shell, None),
        Request::Exec(command) => (
            Program::Command(command.clone()),
            Activity::Command(String::from_utf8_lossy(&command).into_owned()),
            Some(command),
        ),
        Request::Subsystem(name) if name == "sftp" => {
            (Program::Sftp, Activity::Sftp, Some(b"internal-sftp".to_vec()))
        }
        Request::Subsystem(name) => return Err(Error::Subsystem(name)),
    };
    Ok(match grant.options.command.as_deref() {
        None => Plan { program, activity, original: None },
        Some("internal-sftp") => {
            Plan { program: Program::Sftp, activity: Activity::Sftp, original }
        }
        Some(forced) => Plan {
            program: Program::Command(forced.into()),
            activity: Activity::Command(forced.into()),
            original,
        },
    })
}

async fn spawn(
    connection: &Connection,
    program: Program,
    env: Vec<(OsString, OsString)>,
    stdio: Stdio3,
) -> Result<Child, Error> {
    let jail = connection.shared.config.jail.clone();
    let spawning = tokio::task::spawn_blocking(move || jail.spawn(Spawn { program, env, stdio }));
    match tokio::time::timeout(START, spawning).await {
        Ok(Ok(spawned)) => spawned.map_err(Error::Spawn),
        Ok(Err(panicked)) => Err(Error::Panic(panicked)),
        Err(_) => Err(Error::Slow),
    }
}

/// The end of an inbox whose program takes no more: what comes is thrown away, so that the client
/// is not held up by it.
struct Discard<'a>(&'a Inbox);

impl Drop for Discard<'_> {
    fn drop(&mut self) {
        self.0.discard();
    }
}
