//! The requests of the handler's callbacks on a channel: open it, give it a terminal, start its
//! program.

use std::io;
use std::path::PathBuf;

use russh::ChannelId;
use russh::server::Session;

use super::channel::{Entry, State, Terminal};
use super::connection::MAX_CHANNELS;
use super::handler::Handler;
use super::session::{self, Request};
use linux::pty::{self, Mode, Window};

impl Handler {
    /// Starts what the client asks for, and answers.
    pub(super) async fn start(
        &self,
        id: ChannelId,
        request: Request,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        match session::start(&self.connection, id, request, session.handle()).await {
            Ok(()) => session.channel_success(id),
            Err(error) => {
                tracing::warn!(
                    connection = self.connection.id, peer = %self.connection.peer,
                    error = crate::telemetry::chain(&error), "session refused"
                );
                session.channel_failure(id)
            }
        }
    }

    pub(super) fn answer(
        &self,
        id: ChannelId,
        done: bool,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        if done { session.channel_success(id) } else { session.channel_failure(id) }
    }

    /// Gives a channel that the client opens its inbox; `false` when the connection has too many, or has
    /// had.
    pub(super) fn enter(&self, id: ChannelId, state: State) -> bool {
        let mut channels = self.connection.channels();
        let sessions = channels.values().filter(|entry| entry.is_session()).count();
        let most = self.connection.shared.config.limits.max_sessions;
        let is_session = matches!(state, State::Waiting(_));
        if channels.len() >= MAX_CHANNELS
            || (is_session && sessions >= most)
            || self.connection.is_used_up()
        {
            return false;
        }
        channels.insert(id, self.connection.entry(state));
        true
    }

    /// Whether channel `id` may be given a terminal now.
    fn may_have_terminal(&self, id: ChannelId) -> bool {
        let allowed = self.grant().is_some_and(|grant| grant.options.pty);
        let mut channels = self.connection.channels();
        let setup = channels.get_mut(&id).and_then(Entry::setup);
        allowed && setup.is_some_and(|setup| setup.terminal.is_none())
    }

    /// Sets where the client's agent is for the program of channel `id`; `false` if it has started.
    pub(super) fn set_agent(&self, id: ChannelId, socket: PathBuf) -> bool {
        let mut channels = self.connection.channels();
        let setup = channels.get_mut(&id).and_then(Entry::setup);
        setup.map(|setup| setup.agent = Some(socket)).is_some()
    }

    /// Gives channel `id` its terminal; `false` when it may not have one. The jail opens it, which takes
    /// as short a time as a program's start, and is waited for alike.
    pub(super) async fn open_terminal(
        &self,
        id: ChannelId,
        term: &str,
        window: Window,
        modes: Vec<(Mode, u32)>,
    ) -> io::Result<bool> {
        if !self.may_have_terminal(id) {
            return Ok(false);
        }
        let jail = self.connection.shared.config.jail.clone();
        let opening = tokio::task::spawn_blocking(move || {
            let pty = jail.open_pty().map_err(io::Error::other)?;
            pty::resize(&pty.master, window)?;
            pty::set_modes(&pty.slave, &modes)?;
            Ok::<_, io::Error>(pty)
        });
        let pty = tokio::time::timeout(session::START, opening).await???;
        if let Some(setup) = self.connection.channels().get_mut(&id).and_then(Entry::setup) {
            setup.terminal = Some(Terminal { pty, term: term.to_owned(), window });
        }
        Ok(true)
    }
}
