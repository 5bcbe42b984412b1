//! The SSH library's callbacks. They turn requests of the client into state and messages, and never
//! wait for a client or for a queue. The one exception is the jail: whether a program was started,
//! a terminal opened or a socket made, the reply must be sent in the callback (the library has one
//! reply flag a channel, and the next request overwrites it), so these wait for the jail, within a
//! bound.

use std::sync::Arc;
use std::time::SystemTime;

use russh::keys::{Algorithm, Certificate, PublicKey};
use russh::server::{Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty, Sig};

use super::auth::{self, Attempt, Grant};
use super::channel::{Entry, Setup, State};
use super::connection::Connection;
use super::forward::Place;
use super::session::Request;
use super::{algorithms, forward, signals};
use linux::pty::{self, Mode, Window};

/// One connection's handler. Its drop is the sure sign that the connection has ended.
pub(super) struct Handler {
    pub(super) connection: Arc<Connection>,
}

impl Handler {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    fn attempt<'a>(&self, user: &'a str) -> Attempt<'a> {
        Attempt { user, address: self.connection.peer.ip(), now: SystemTime::now() }
    }

    fn log_in(&self, user: &str, grant: Option<Grant>) -> Auth {
        let Some(grant) = grant else { return Auth::reject() };
        tracing::info!(
            connection = self.connection.id, peer = %self.connection.peer, user,
            key = %grant.identity, "login"
        );
        // A second login on one connection cannot happen: the library ends the authentication.
        let _ = self.connection.grant.set(grant);
        self.connection.authenticated.cancel();
        Auth::Accept
    }

    pub(super) fn grant(&self) -> Option<&Grant> {
        self.connection.grant.get()
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.connection.ended();
    }
}

impl russh::server::Handler for Handler {
    type Error = russh::Error;

    async fn auth_publickey_offered(
        &mut self,
        user: &str,
        offer: PublicKeyOffer<'_>,
    ) -> Result<Auth, Self::Error> {
        let keys = &self.connection.shared.config.authorized_keys;
        let (key, algorithm): (&PublicKey, &Algorithm) = (offer.public_key, offer.algorithm);
        match auth::offered(keys, auth::USER, self.attempt(user), key, algorithm) {
            true => Ok(Auth::Accept),
            false => Ok(Auth::reject()),
        }
    }

    async fn auth_publickey(
        &mut self,
        user: &str,
        key: VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        let keys = &self.connection.shared.config.authorized_keys;
        let attempt = self.attempt(user);
        let grant = auth::plain(keys, auth::USER, attempt, key.public_key, key.algorithm);
        Ok(self.log_in(user, grant))
    }

    async fn auth_openssh_certificate(
        &mut self,
        user: &str,
        certificate: &Certificate,
    ) -> Result<Auth, Self::Error> {
        let keys = &self.connection.shared.config.authorized_keys;
        let grant = auth::certificate(keys, auth::USER, self.attempt(user), certificate);
        Ok(self.log_in(user, grant))
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        // The reading half is dropped: input arrives in the callbacks, and an unread queue would
        // stop the connection.
        let (id, (_, write)) = (channel.id(), channel.split());
        match self.enter(id, State::Waiting(Setup::new(write))) {
            true => reply.accept().await,
            false => reply.reject(ChannelOpenFailure::ResourceShortage).await,
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(target) = forward::tcp::Target::permitted(&self.connection, host, port) else {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        };
        let (id, (_, write)) = (channel.id(), channel.split());
        match self.enter(id, State::Forward) {
            true => forward::tcp::direct(Arc::clone(&self.connection), write, target, reply),
            false => reply.reject(ChannelOpenFailure::ResourceShortage).await,
        }
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if !forward::unix::may_connect(&self.connection, path) {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        }
        let (id, (_, write)) = (channel.id(), channel.split());
        let connection = Arc::clone(&self.connection);
        match self.enter(id, State::Forward) {
            true => forward::unix::direct(connection, write, path.into(), reply),
            false => reply.reject(ChannelOpenFailure::ResourceShortage).await,
        }
        Ok(())
    }

    /// A channel that we opened towards a forwarding client: its data may follow at once. The library has
    /// told the task that opened it before, which may have been faster.
    async fn channel_open_confirmation(
        &mut self,
        id: ChannelId,
        _max_packet_size: u32,
        _window_size: u32,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let connection = &self.connection;
        connection.channels().entry(id).or_insert_with(|| connection.entry(State::Opening));
        Ok(())
    }

    async fn data(
        &mut self,
        id: ChannelId,
        data: &[u8],
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(entry) = self.connection.channels().get(&id) {
            entry.inbox.push(data);
        }
        Ok(())
    }

    fn adjust_window(&mut self, _channel: ChannelId, _current: u32) -> u32 {
        self.connection.throttle.window(algorithms::WINDOW)
    }

    async fn channel_eof(
        &mut self,
        id: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        if let Some(entry) = self.connection.channels().get(&id) {
            entry.inbox.end();
        }
        Ok(())
    }

    async fn channel_close(
        &mut self,
        id: ChannelId,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let mut channels = self.connection.channels();
        if let Some(entry) = channels.get(&id) {
            entry.inbox.end();
            entry.closed.cancel();
            if !matches!(entry.state, State::Opening) {
                channels.remove(&id);
            }
        }
        Ok(())
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let set = |entry: &mut Entry| Some(entry.setup()?.set(name, value));
        let done = self.connection.channels().get_mut(&id).and_then(set).unwrap_or(false);
        self.answer(id, done, session)
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        width_pixels: u32,
        height_pixels: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let window = Window { columns, rows, width_pixels, height_pixels };
        let known = |&(code, value): &(Pty, u32)| Some((Mode::from_code(code as u8)?, value));
        let modes = modes.iter().filter_map(known).collect();
        let opened = self.open_terminal(id, term, window, modes).await;
        let done = opened.unwrap_or_else(|error| {
            tracing::warn!(connection = self.connection.id, %error, "cannot open a terminal");
            false
        });
        self.answer(id, done, session)
    }

    async fn x11_request(
        &mut self,
        id: ChannelId,
        _single_connection: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(id)
    }

    async fn agent_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        let socket = forward::unix::agent(&self.connection, session.handle()).await;
        Ok(socket.is_some_and(|socket| self.set_agent(id, socket)))
    }

    async fn shell_request(
        &mut self,
        id: ChannelId,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(id, Request::Shell, session).await
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(id, Request::Exec(command.to_vec()), session).await
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.start(id, Request::Subsystem(name.to_owned()), session).await
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        columns: u32,
        rows: u32,
        width_pixels: u32,
        height_pixels: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let window = Window { columns, rows, width_pixels, height_pixels };
        let mut done = false;
        if let Some(entry) = self.connection.channels().get_mut(&id) {
            if let Some(control) = entry.control() {
                done = control.window.send(window).is_ok();
            } else if let Some(terminal) = entry.setup().and_then(|setup| setup.terminal.as_mut()) {
                terminal.window = window;
                done = pty::resize(&terminal.pty.master, window).is_ok();
            }
        }
        self.answer(id, done, session)
    }

    async fn signal(
        &mut self,
        id: ChannelId,
        signal: Sig,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(signal) = signals::from_ssh(&signal) else { return Ok(()) };
        if let Some(control) = self.connection.channels().get(&id).and_then(Entry::control) {
            // Full only when the client sends them faster than the kernel takes them: same signals.
            let _ = control.signals.try_send(signal);
        }
        Ok(())
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(forward::tcp::listen(&self.connection, address, port, session.handle()).await)
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.connection.forwards.cancel(&Place::Tcp(address.to_owned(), port)))
    }

    async fn streamlocal_forward(
        &mut self,
        path: &str,
        session: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(forward::unix::listen(&self.connection, path, session.handle()).await)
    }

    async fn cancel_streamlocal_forward(
        &mut self,
        path: &str,
        _session: &mut Session,
    ) -> Result<bool, Self::Error> {
        Ok(self.connection.forwards.cancel(&Place::Unix(path.to_owned())))
    }
}
