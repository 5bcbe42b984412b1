//! State that a connection's handler and the tasks of its channels share.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use bytes::Bytes;
use futures::FutureExt;
use russh::server::Msg;
use russh::{ChannelId, ChannelWriteHalf};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Config;
use super::auth::Grant;
use super::channel::{Entry, State};
use super::flow::{Budget, Inbox, Throttle};
use super::registry::Registry;

/// Channels of all kinds that one connection may have open.
pub(super) const MAX_CHANNELS: usize = 512;

/// What all connections of a server share.
#[derive(Debug)]
pub(super) struct Shared {
    pub config: Config,
    pub budget: Arc<Budget>,
    pub registry: Registry,
    /// Sockets of clients in the jail: each is removed before its task ends.
    pub sockets: TaskTracker,
    /// How many tasks may wait for the jail to open a socket.
    pub openings: Arc<Semaphore>,
}

/// One connection. The handler owns its protocol side; this survives it while programs run.
#[derive(Debug)]
pub(super) struct Connection {
    pub id: u64,
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub shared: Arc<Shared>,
    pub throttle: Arc<Throttle>,
    /// Cancelled when the handler is dropped: the only sure sign that the connection has ended.
    pub gone: CancellationToken,
    /// Cancelled at login.
    pub authenticated: CancellationToken,
    pub grant: OnceLock<Grant>,
    channels: Mutex<HashMap<ChannelId, Entry>>,
    /// Channels that were closed from this side.
    closed: AtomicUsize,
    pub forwards: super::forward::Listeners,
}

impl Connection {
    pub(super) fn new(id: u64, peer: SocketAddr, local: SocketAddr, shared: Arc<Shared>) -> Self {
        let throttle = Arc::new(Throttle::new(Arc::clone(&shared.budget)));
        Self {
            id,
            peer,
            local,
            shared,
            throttle,
            gone: CancellationToken::new(),
            authenticated: CancellationToken::new(),
            grant: OnceLock::new(),
            channels: Mutex::default(),
            closed: AtomicUsize::default(),
            forwards: Default::default(),
        }
    }

    pub(super) fn channels(&self) -> MutexGuard<'_, HashMap<ChannelId, Entry>> {
        self.channels.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Whether this connection has had all the channels it gets.
    pub(super) fn is_used_up(&self) -> bool {
        self.closed.load(Ordering::Relaxed) >= self.shared.config.limits.max_closed
    }

    /// What a new channel gets.
    pub(super) fn entry(&self, state: State) -> Entry {
        let inbox = Inbox::new(Arc::clone(&self.shared.budget), Arc::clone(&self.throttle));
        Entry { inbox, closed: self.gone.child_token(), state }
    }

    /// The handler was dropped: no channel gets any more data.
    pub(super) fn ended(&self) {
        self.gone.cancel();
        self.channels().values().for_each(|entry| entry.inbox.end());
    }
}

/// The way out of one channel; obeys the client's window.
#[derive(Debug)]
pub(super) struct Outlet {
    pub write: ChannelWriteHalf<Msg>,
    pub connection: Arc<Connection>,
    /// Cancelled when nothing can be sent any more: the client closed the channel or disconnected.
    pub closed: CancellationToken,
    /// Set when data may no longer follow.
    finished: AtomicBool,
}

impl Outlet {
    pub(super) fn new(
        write: ChannelWriteHalf<Msg>,
        connection: Arc<Connection>,
        closed: CancellationToken,
    ) -> Self {
        Self { write, connection, closed, finished: AtomicBool::new(false) }
    }

    /// Sends to the client; `false` when that has become impossible.
    pub(super) async fn send(&self, bytes: Bytes) -> bool {
        self.deliver(self.write.data_bytes(bytes)).await
    }

    /// Sends on the standard error stream (SSH_EXTENDED_DATA_STDERR).
    pub(super) async fn send_stderr(&self, bytes: Bytes) -> bool {
        self.deliver(self.write.extended_data_bytes(1, bytes)).await
    }

    async fn deliver(&self, sending: impl Future<Output = Result<(), russh::Error>>) -> bool {
        if self.finished.load(Ordering::Relaxed) {
            return false;
        }
        tokio::pin!(sending);
        if let Some(result) = sending.as_mut().now_or_never() {
            return result.is_ok();
        }
        // The window is used up, or the connection is busy: the client must be heard.
        let _waiting = self.connection.throttle.waiting();
        tokio::select! {
            result = sending => result.is_ok(),
            () = self.closed.cancelled() => false,
        }
    }

    /// EOF: no data follows, requests may.
    pub(super) async fn eof(&self) {
        if !self.finished.swap(true, Ordering::Relaxed) {
            self.control(self.write.eof()).await;
        }
    }

    /// Closes the channel, and forgets it: the library does not report when the client agrees.
    pub(super) async fn close(&self) {
        self.eof().await;
        // Before the client can know: it may open its next session at once, and MaxSessions counts.
        if self.connection.channels().remove(&self.write.id()).is_some() {
            self.connection.closed.fetch_add(1, Ordering::Relaxed);
        }
        self.control(self.write.close()).await;
        self.closed.cancel();
    }

    /// A message other than data. They queue behind data, so they may wait too.
    pub(super) async fn control<T>(&self, sending: impl Future<Output = T>) {
        let _waiting = self.connection.throttle.waiting();
        tokio::select! {
            _ = sending => {}
            () = self.closed.cancelled() => {}
        }
    }
}
