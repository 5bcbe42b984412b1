//! The state of a channel in the handler: the receiver of its input, and requests before the start
//! of its program.

use std::path::PathBuf;

use russh::ChannelWriteHalf;
use russh::server::Msg;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::flow::Inbox;
use linux::Signal;
use linux::pty::{Pty, Window};

/// `env` requests that are remembered; further ones are refused.
const MAX_ENVIRONMENT: usize = 128;

/// Client variables that sessions take over (sshd's `AcceptEnv` on Debian).
const ACCEPTED: [&str; 3] = ["LANG", "COLORTERM", "NO_COLOR"];

/// An open channel.
#[derive(Debug)]
pub(super) struct Entry {
    pub inbox: Inbox,
    /// Cancelled when the client closes the channel, with the connection at the latest.
    pub closed: CancellationToken,
    pub state: State,
}

#[derive(Debug)]
pub(super) enum State {
    /// A session without a program yet.
    Waiting(Setup),
    /// A session whose program runs.
    Running(Control),
    /// A channel that we opened, before the task of its connection has taken it over. It stays known
    /// even when the client closes it at once: there may be data in it.
    Opening,
    /// A forwarded connection.
    Forward,
}

/// What a client asks for before it starts something.
#[derive(Debug)]
pub(super) struct Setup {
    pub write: ChannelWriteHalf<Msg>,
    pub environment: Vec<(String, String)>,
    pub terminal: Option<Terminal>,
    /// The socket that leads to the client's ssh-agent.
    pub agent: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) struct Terminal {
    pub pty: Pty,
    /// The client's TERM.
    pub term: String,
    pub window: Window,
}

/// How requests reach a running session. Nothing here waits.
#[derive(Debug)]
pub(super) struct Control {
    pub window: watch::Sender<Window>,
    pub signals: mpsc::Sender<Signal>,
}

impl Setup {
    pub(super) fn new(write: ChannelWriteHalf<Msg>) -> Self {
        Self { write, environment: Vec::new(), terminal: None, agent: None }
    }

    /// Remembers a variable if clients may set it.
    pub(super) fn set(&mut self, name: &str, value: &str) -> bool {
        let accepted = ACCEPTED.contains(&name) || name.starts_with("LC_");
        let sound = !value.contains('\0') && !name.contains(['=', '\0']);
        if !accepted || !sound || self.environment.len() >= MAX_ENVIRONMENT {
            return false;
        }
        self.environment.retain(|(other, _)| other != name);
        self.environment.push((name.to_owned(), value.to_owned()));
        true
    }
}

impl Entry {
    pub(super) fn is_session(&self) -> bool {
        !matches!(self.state, State::Opening | State::Forward)
    }

    pub(super) fn setup(&mut self) -> Option<&mut Setup> {
        match &mut self.state {
            State::Waiting(setup) => Some(setup),
            _ => None,
        }
    }

    pub(super) fn control(&self) -> Option<&Control> {
        match &self.state {
            State::Running(control) => Some(control),
            _ => None,
        }
    }
}
