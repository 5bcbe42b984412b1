//! The listener, its connections, and the handle by which `job` controls them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use russh::Disconnect;
use russh::server::{RunningSession, run_stream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{Admission, Startup};
use super::algorithms;
use super::config::Config;
use super::connection::{Connection, Shared};
use super::flow::{Budget, SessionStream, Wire};
use super::handler::Handler;
use super::registry::{Activity, Registry, SessionInfo};

/// Time that clients without sessions have to begin another or to leave.
const LINGER: Duration = Duration::from_secs(1);
/// The same where no client is connected.
const GONE: Duration = Duration::from_millis(250);

/// A session without a byte for this long is not in the middle of something.
const QUIET: Duration = Duration::from_secs(2);
/// What sessions get to end after they were hung up.
const HANGUP: Duration = Duration::from_secs(2);
/// What a client gets to read that it is disconnected, and to close.
const GOODBYE: Duration = Duration::from_millis(500);

/// Sockets that are being opened in the jail at once: each takes a thread and a process.
const MAX_OPENINGS: usize = 16;

/// Starts servers.
pub struct Server;

/// A running server. Dropping it changes nothing; [`Handle::close`] and the shutdown token end it.
#[derive(Debug, Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    russh: Arc<russh::server::Config>,
    admission: Arc<Admission>,
    connections: TaskTracker,
    next: AtomicU64,
    /// Cancelled: no new connections.
    stop: CancellationToken,
    /// Cancelled with the text to send: connections are asked to close...
    goodbye: CancellationToken,
    /// ...and cut.
    cut: CancellationToken,
    address: SocketAddr,
}

impl Server {
    /// Serves on `listener` until `shutdown` is cancelled, which cuts every connection at once, or
    /// until [`Handle::close`]. Must be called within a multi-threaded runtime.
    pub fn start(
        listener: TcpListener,
        config: Config,
        shutdown: CancellationToken,
    ) -> io::Result<Handle> {
        let address = listener.local_addr()?;
        let limits = &config.limits;
        let budget =
            Budget::new(limits.queued_memory, limits.queued_disk, config.spill_directory.clone());
        let inner = Arc::new(Inner {
            russh: Arc::new(algorithms::russh_config(&config)),
            admission: Arc::new(Admission::new(limits.max_startups)),
            connections: TaskTracker::new(),
            next: AtomicU64::new(1),
            stop: shutdown.child_token(),
            goodbye: shutdown.child_token(),
            cut: shutdown,
            address,
            shared: Arc::new(Shared {
                budget: Arc::new(budget),
                registry: Registry::default(),
                sockets: TaskTracker::new(),
                openings: Arc::new(Semaphore::new(MAX_OPENINGS)),
                config,
            }),
        });
        let accepting = accept(Arc::clone(&inner), listener);
        tokio::spawn(inner.stop.clone().run_until_cancelled_owned(accepting));
        Ok(Handle { inner })
    }
}

impl Handle {
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.address
    }

    /// The sessions whose programs run, in the order they were opened.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.inner.shared.registry.live().iter().map(|live| live.info()).collect()
    }

    /// Time since the last byte in any session, and the last beginning or end of a session.
    pub fn idle(&self) -> Duration {
        self.inner.shared.registry.idle()
    }

    /// Shows `text` (lines end with `\n`) in every session that a person looks at.
    pub fn notice(&self, text: &str) {
        let text = Bytes::copy_from_slice(text.as_bytes());
        for live in self.inner.shared.registry.connected() {
            if live.is_interactive() {
                live.notice(&text);
            }
        }
    }

    /// Ends the server: `notice` to the people; shells are hung up; commands and file transfers may
    /// finish while they are busy, for `grace` at most, and clients may come back with another (Ansible
    /// cleans up after its last task); then no new connections, and everything is hung up,
    /// disconnected and cut. Returns within `grace` and about three seconds. Programs that do not go
    /// are left to the jail.
    pub async fn close(&self, notice: &str, grace: Duration) {
        let registry = &self.inner.shared.registry;
        self.notice(notice);
        for live in registry.connected() {
            if live.identity.activity == Activity::Shell {
                live.hangup.cancel();
            }
        }
        let _ = tokio::time::timeout(grace, self.settled()).await;
        self.inner.stop.cancel();
        registry.connected().iter().for_each(|live| live.hangup.cancel());
        let ended = registry.until(<[_]>::is_empty);
        let _ = tokio::time::timeout(HANGUP, ended).await;
        self.inner.goodbye.cancel();
        self.inner.connections.close();
        if tokio::time::timeout(GOODBYE, self.inner.connections.wait()).await.is_err() {
            self.inner.cut.cancel();
            let _ = tokio::time::timeout(GOODBYE, self.inner.connections.wait()).await;
        }
        self.inner.shared.sockets.close();
        if tokio::time::timeout(HANGUP, self.inner.shared.sockets.wait()).await.is_err() {
            tracing::warn!("cannot close all forwarded sockets, some may stay in the image");
        }
    }

    /// Until no session is in the middle of something, and none has begun for a while.
    async fn settled(&self) {
        let registry = &self.inner.shared.registry;
        loop {
            registry.until(|live| live.iter().all(|live| live.idle() > QUIET)).await;
            // A client that stays connected may have more to do; the answer of its last command
            // must not be overtaken by a disconnect either, which would turn success into an error.
            let pause = if self.inner.connections.is_empty() { GONE } else { LINGER };
            let busy_again = registry.until(|live| live.iter().any(|live| live.idle() <= QUIET));
            if tokio::time::timeout(pause, busy_again).await.is_err() {
                return;
            }
        }
    }
}

async fn accept(inner: Arc<Inner>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => inner.admit(tcp, peer),
            Err(error) => {
                // Out of descriptors, mostly: connections that end give some back.
                tracing::warn!(%error, "cannot accept an SSH connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Inner {
    fn admit(self: &Arc<Self>, tcp: TcpStream, peer: SocketAddr) {
        let Some(startup) = self.admission.admit(peer.ip(), rand::random_range(0..100)) else {
            tracing::debug!(%peer, "connection dropped: too many unauthenticated connections \
                (MaxStartups)");
            // As sshd says it; the socket of a new connection has room for it.
            let _ = tcp.try_write(b"Not allowed at this time\r\n");
            return;
        };
        let connecting = Arc::clone(self).serve(tcp, peer, startup);
        self.connections.spawn(connecting);
    }

    async fn serve(self: Arc<Self>, tcp: TcpStream, peer: SocketAddr, startup: Startup) {
        let _ = tcp.set_nodelay(true);
        let Ok(local) = tcp.local_addr() else { return };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(id, peer, local, Arc::clone(&self.shared)));
        let wire = Arc::new(Wire::default());
        let cut = self.cut.child_token();
        let stream = SessionStream::new(
            tcp,
            Arc::clone(&connection.throttle),
            cut.clone(),
            Arc::clone(&wire),
        );
        tracing::debug!(connection = id, %peer, "connection opened");
        let turn = cut.run_until_cancelled(startup.turn(&connection.authenticated));
        let Some(()) = turn.await else { return };
        let result = self.converse(stream, &connection, &cut, startup).await;
        let (received, sent) = (&wire.received, &wire.sent);
        tracing::debug!(
            connection = id, %peer, end = ?result.err(),
            received = received.load(Ordering::Relaxed), sent = sent.load(Ordering::Relaxed),
            "connection closed"
        );
    }

    /// From the first byte to the last, with the login's deadline.
    async fn converse(
        &self,
        stream: SessionStream,
        connection: &Arc<Connection>,
        cut: &CancellationToken,
        startup: Startup,
    ) -> Result<(), russh::Error> {
        let grace = self.shared.config.limits.login_grace_time;
        let deadline = tokio::time::Instant::now() + grace;
        let handler = Handler::new(Arc::clone(connection));
        let beginning = run_stream(Arc::clone(&self.russh), stream, handler);
        let Ok(session) = tokio::time::timeout_at(deadline, beginning).await else {
            return Err(russh::Error::ConnectionTimeout);
        };
        let mut session = session?;
        tokio::select! {
            result = &mut session => return result,
            () = connection.authenticated.cancelled() => drop(startup),
            () = self.goodbye.cancelled() => {}
            () = tokio::time::sleep_until(deadline) => {
                tracing::info!(peer = %connection.peer, "no login within LoginGraceTime");
                cut.cancel();
            }
        }
        tokio::select! {
            result = &mut session => return result,
            () = self.goodbye.cancelled() => {}
            () = cut.cancelled() => {}
        }
        disconnect(session, cut).await
    }
}

/// Asks the client to disconnect, and cuts the stream when that takes too long: the library's disconnect may
/// wait for a key exchange that never comes.
async fn disconnect(
    mut session: RunningSession<Handler>,
    cut: &CancellationToken,
) -> Result<(), russh::Error> {
    let handle = session.handle();
    let reason = "the job has ended".to_owned();
    let saying = handle.disconnect(Disconnect::ByApplication, reason, String::new());
    let _ = tokio::time::timeout(GOODBYE / 2, saying).await;
    if let Ok(result) = tokio::time::timeout(GOODBYE / 2, &mut session).await {
        return result;
    }
    cut.cancel();
    session.await
}
