//! Forwarded connections: TCP (`tcp`), Unix sockets and the client's ssh-agent (`unix`).
//!
//! Shared by both: permissions, limits, and the copying in both directions.

pub(super) mod tcp;
pub(super) mod unix;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use russh::server::{ChannelOpenHandle, Msg};
use russh::{Channel, ChannelOpenFailure, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::channel::State;
use super::connection::{Connection, MAX_CHANNELS, Outlet};
use super::flow::Inbox;

/// How long a target may take to accept.
const CONNECT: Duration = Duration::from_secs(30);
const READ: usize = 64 << 10;
/// How long a connection may take to accept the rest of what a client sent before it left.
const LAST_UPLOAD: Duration = Duration::from_secs(60);
/// Listening sockets of one connection.
const MAX_LISTENERS: usize = 64;

/// What a client has us listen on, by the name it gave.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    Tcp(String, u32),
    Unix(String),
}

/// The listening sockets of one connection.
#[derive(Debug)]
pub(super) struct Listeners {
    open: Mutex<HashMap<Place, CancellationToken>>,
    /// The socket that leads to the client's ssh-agent, as sessions see it.
    agent: Mutex<Option<PathBuf>>,
    /// One for each connection that was accepted for the client: the rest waits in the kernel.
    slots: Arc<Semaphore>,
}

impl Default for Listeners {
    fn default() -> Self {
        let slots = Arc::new(Semaphore::new(MAX_CHANNELS));
        Self { open: Mutex::default(), agent: Mutex::default(), slots }
    }
}

impl Listeners {
    /// Ends a listener; `false` if there is none.
    pub(super) fn cancel(&self, place: &Place) -> bool {
        let removed = lock(&self.open).remove(place);
        removed.inspect(CancellationToken::cancel).is_some()
    }

    fn is_full(&self) -> bool {
        lock(&self.open).len() >= MAX_LISTENERS
    }

    /// Remembers a listener; what it does ends with the token, at the latest with the connection.
    fn enter(&self, place: Place, connection: &Connection) -> CancellationToken {
        let token = connection.gone.child_token();
        lock(&self.open).insert(place, token.clone());
        token
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The inbox that the handler has made for a channel which the client opens; `None` if the client has
/// closed it again.
fn registered(
    connection: &Connection,
    write: &ChannelWriteHalf<Msg>,
) -> Option<(Inbox, CancellationToken)> {
    let channels = connection.channels();
    let entry = channels.get(&write.id())?;
    Some((entry.inbox.clone(), entry.closed.clone()))
}

/// The inbox of a channel that was opened towards the client. Created by the first that learns that
/// it is open: the handler, or this function.
fn opened(connection: &Connection, write: &ChannelWriteHalf<Msg>) -> (Inbox, CancellationToken) {
    let mut channels = connection.channels();
    let entry = channels.entry(write.id()).or_insert_with(|| connection.entry(State::Forward));
    entry.state = State::Forward;
    let (inbox, closed) = (entry.inbox.clone(), entry.closed.clone());
    // The client may have closed it already, with data in it that is still to be delivered.
    if closed.is_cancelled() {
        channels.remove(&write.id());
    }
    (inbox, closed)
}

/// Connects to the requested target and replies to the request; the rest continues in its own task.
/// `target` is for the log.
fn direct<R, W, E>(
    connection: Arc<Connection>,
    channel: ChannelWriteHalf<Msg>,
    reply: ChannelOpenHandle,
    target: String,
    connecting: impl Future<Output = Result<(R, W), E>> + Send + 'static,
) where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
    E: std::error::Error + Send + 'static,
{
    tokio::spawn(async move {
        let id = channel.id();
        let Some((inbox, closed)) = registered(&connection, &channel) else { return };
        match connecting.await {
            Ok((read, write)) => {
                reply.accept().await;
                join(read, write, inbox, Outlet::new(channel, connection, closed)).await;
            }
            Err(error) => {
                tracing::debug!(
                    target,
                    error = crate::telemetry::chain(&error),
                    "cannot forward \
                    a connection"
                );
                connection.channels().remove(&id);
                reply.reject(ChannelOpenFailure::ConnectFailed).await;
            }
        }
    });
}

/// Joins what was accepted for a client to the channel that was opened towards it.
async fn join_opened(
    connection: Arc<Connection>,
    opening: impl Future<Output = Result<Channel<Msg>, russh::Error>>,
    read: impl AsyncRead + Unpin,
    write: impl AsyncWrite + Unpin,
) {
    let Ok(channel) = opening.await else { return };
    // The reading half is dropped at once: input comes through the handler.
    let (_, channel) = channel.split();
    let (inbox, closed) = opened(&connection, &channel);
    join(read, write, inbox, Outlet::new(channel, connection, closed)).await;
}

/// Both directions, each with its own end.
async fn join(
    read: impl AsyncRead + Unpin,
    write: impl AsyncWrite + Unpin,
    inbox: Inbox,
    outlet: Outlet,
) {
    let up = async {
        // Data from before the client's close is delivered, unless nothing reads it.
        let late = async {
            outlet.closed.cancelled().await;
            tokio::time::sleep(LAST_UPLOAD).await;
        };
        tokio::select! {
            _ = upload(&inbox, write) => {}
            () = late => {}
        }
        inbox.discard();
    };
    let down = async {
        tokio::select! {
            _ = download(&outlet, read) => {}
            () = outlet.closed.cancelled() => {}
        }
        outlet.eof().await;
    };
    tokio::join!(up, down);
    outlet.close().await;
}

async fn upload(inbox: &Inbox, mut target: impl AsyncWrite + Unpin) -> io::Result<()> {
    while let Some(bytes) = inbox.next().await? {
        target.write_all(&bytes).await?;
    }
    target.shutdown().await
}

async fn download(outlet: &Outlet, mut source: impl AsyncRead + Unpin) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ);
        let count = source.read_buf(&mut buffer).await?;
        if count == 0 || !outlet.send(buffer.split().freeze()).await {
            return Ok(());
        }
    }
}
