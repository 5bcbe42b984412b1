//! The current sessions of a server, for `Handle::sessions` and for notices.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// What a session runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activity {
    Shell,
    /// As the client requested it, in lossy UTF-8.
    Command(String),
    Sftp,
}

/// One session, as it was when [`super::Handle::sessions`] was called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    pub id: u64,
    /// The same for all sessions of one connection.
    pub connection: u64,
    pub peer: SocketAddr,
    pub user: String,
    /// Fingerprint and comment of the key.
    pub identity: String,
    pub activity: Activity,
    pub pty: bool,
    pub since: SystemTime,
    /// From the client.
    pub bytes_in: u64,
    /// To the client.
    pub bytes_out: u64,
    /// Since the last byte in either direction.
    pub idle: Duration,
    /// False when the client has disconnected and the program continues.
    pub connected: bool,
}

/// The fixed part of a session.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub connection: u64,
    pub peer: SocketAddr,
    pub user: String,
    pub key: String,
    pub activity: Activity,
    pub pty: bool,
}

/// A session while it lives; shared by its task and the registry.
#[derive(Debug)]
pub(super) struct Live {
    pub id: u64,
    pub identity: Identity,
    /// Cancelled when the server wants the session to end.
    pub hangup: CancellationToken,
    since: (SystemTime, Instant),
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    /// Milliseconds after `since`.
    active: AtomicU64,
    connected: AtomicBool,
    notices: mpsc::Sender<Bytes>,
}

/// All live sessions.
#[derive(Debug)]
pub(super) struct Registry {
    next: AtomicU64,
    live: Mutex<BTreeMap<u64, Arc<Live>>>,
    changed: Notify,
    /// When a session began or ended last; before the first, when the server started.
    moved: Mutex<Instant>,
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(0),
            live: Mutex::default(),
            changed: Notify::new(),
            moved: Mutex::new(Instant::now()),
        }
    }
}

impl Registry {
    pub(super) fn enter(&self, identity: Identity) -> (Arc<Live>, mpsc::Receiver<Bytes>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let (notices, receiver) = mpsc::channel(4);
        let live = Arc::new(Live {
            id,
            identity,
            hangup: CancellationToken::new(),
            since: (SystemTime::now(), Instant::now()),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            active: AtomicU64::new(0),
            connected: AtomicBool::new(true),
            notices,
        });
        self.lock().insert(id, Arc::clone(&live));
        self.moved();
        (live, receiver)
    }

    /// The client has left or was shown the end.
    pub(super) fn disconnected(&self, live: &Live) {
        live.connected.store(false, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    /// The program has ended.
    pub(super) fn leave(&self, live: &Live) {
        self.lock().remove(&live.id);
        self.moved();
        self.disconnected(live);
    }

    fn moved(&self) {
        *self.moved.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Instant::now();
    }

    /// How long nothing has begun or ended, and no session has had a byte.
    pub(super) fn idle(&self) -> Duration {
        let moved = *self.moved.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let quietest = self.lock().values().map(|live| live.idle()).min();
        quietest.map_or(moved.elapsed(), |idle| idle.min(moved.elapsed()))
    }

    pub(super) fn live(&self) -> Vec<Arc<Live>> {
        self.lock().values().cloned().collect()
    }

    /// Sessions that still have a client.
    pub(super) fn connected(&self) -> Vec<Arc<Live>> {
        self.lock().values().filter(|live| live.is_connected()).cloned().collect()
    }

    /// Waits until `done` says so; asked again after every change.
    pub(super) async fn until(&self, mut done: impl FnMut(&[Arc<Live>]) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if done(&self.connected()) {
                return;
            }
            // Going quiet is no event: look again from time to time.
            let _ = tokio::time::timeout(Duration::from_millis(100), changed).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Live>>> {
        self.live.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Live {
    pub(super) fn count_in(&self, bytes: usize) {
        self.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
        self.touch();
    }

    pub(super) fn count_out(&self, bytes: usize) {
        self.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
        self.touch();
    }

    fn touch(&self) {
        self.active.store(self.since.1.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    pub(super) fn idle(&self) -> Duration {
        let active = Duration::from_millis(self.active.load(Ordering::Relaxed));
        self.since.1.elapsed().saturating_sub(active)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// A person uses it. A command on a terminal may also belong to a program: Ansible runs
    /// commands with `ssh -tt` and parses their output.
    pub(super) fn is_interactive(&self) -> bool {
        self.identity.activity == Activity::Shell
    }

    /// Queues a message for the user; one that does not take its messages gets no more.
    pub(super) fn notice(&self, text: &Bytes) {
        let _ = self.notices.try_send(text.clone());
    }

    pub(super) fn info(&self) -> SessionInfo {
        let identity = self.identity.clone();
        SessionInfo {
            id: self.id,
            connection: identity.connection,
            peer: identity.peer,
            user: identity.user,
            identity: identity.key,
            activity: identity.activity,
            pty: identity.pty,
            since: self.since.0,
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            idle: self.idle(),
            connected: self.is_connected(),
        }
    }
}
