//! Unix sockets: `direct-streamlocal@openssh.com` (`ssh -L port:/path`), `streamlocal-forward@openssh.com`
//! (`ssh -R /path:...`) and the socket that leads to the client's ssh-agent (OpenSSH's PROTOCOL, 2.4,
//! and draft-miller-ssh-agent).
//!
//! The jail opens them, so paths are those of the session. They are closed with their connection.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use russh::ChannelWriteHalf;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::super::authorized_keys::Options;
use super::super::config::Forwarding;
use super::super::connection::Connection;
use super::super::session::START;
use super::{CONNECT, Place, join_opened, lock};
use crate::jail::{self, Jail, SocketFile};

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the jail refused the request")]
    Jail(#[from] jail::Error),
    #[error("the jail did not respond in time")]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("the request to the jail failed")]
    Panic(#[from] tokio::task::JoinError),
    #[error("the socket cannot be used")]
    Socket(#[from] std::io::Error),
    #[error("the server is shutting down")]
    Closed(#[from] tokio::sync::AcquireError),
}

/// Whether the client may connect to sockets. A key with a list of targets names none of them (sshd
/// reads `permitopen` alike).
pub(in super::super) fn may_connect(connection: &Connection, path: &str) -> bool {
    let forwarding = connection.shared.config.forwarding != Forwarding::None;
    let key = |key: &Options| key.port_forwarding && key.permit_open.is_empty();
    forwarding && path.starts_with('/') && options(connection).is_some_and(key)
}

fn may_listen(connection: &Connection, path: &str) -> bool {
    let forwarding = connection.shared.config.forwarding == Forwarding::All;
    let key = |key: &Options| key.port_forwarding && key.permit_listen.is_empty();
    forwarding && path.starts_with('/') && options(connection).is_some_and(key)
}

fn may_use_agent(connection: &Connection) -> bool {
    let forwarding = connection.shared.config.forwarding == Forwarding::All;
    forwarding && options(connection).is_some_and(|key| key.agent_forwarding)
}

fn options(connection: &Connection) -> Option<&Options> {
    connection.grant.get().map(|grant| &grant.options)
}

/// Has the jail do something, within bounds of time and of how much it does at once.
pub(super) async fn in_jail<T: Send + 'static>(
    connection: &Connection,
    limit: Duration,
    act: impl FnOnce(&Jail) -> Result<T, jail::Error> + Send + 'static,
) -> Result<T, Error> {
    let jail = connection.shared.config.jail.clone();
    let openings = Arc::clone(&connection.shared.openings);
    let acting = async {
        let permit = openings.acquire_owned().await?;
        let act = move || {
            let _permit = permit;
            act(&jail)
        };
        Ok::<_, Error>(tokio::task::spawn_blocking(act).await??)
    };
    tokio::time::timeout(limit, acting).await?
}

/// Connects to `path` for a client.
pub(in super::super) fn direct(
    connection: Arc<Connection>,
    channel: ChannelWriteHalf<Msg>,
    path: PathBuf,
    reply: ChannelOpenHandle,
) {
    let (jailed, name) = (Arc::clone(&connection), path.display().to_string());
    super::direct(connection, channel, reply, name, async move {
        let stream = in_jail(&jailed, CONNECT, move |jail| jail.connect(&path)).await?;
        Ok::<_, Error>(UnixStream::from_std(stream)?.into_split())
    });
}

/// Listens for a client; `false` when it is forbidden or impossible.
pub(in super::super) async fn listen(
    connection: &Arc<Connection>,
    path: &str,
    handle: Handle,
) -> bool {
    if !may_listen(connection, path) || connection.forwards.is_full() {
        return false;
    }
    let wanted = PathBuf::from(path);
    match open(connection, move |jail| jail.listen(&wanted)).await {
        Ok(socket) => {
            let token = connection.forwards.enter(Place::Unix(path.to_owned()), connection);
            serve(connection, socket, Opener::Streamlocal(path.to_owned()), handle, token);
            true
        }
        Err(error) => {
            let error = crate::telemetry::chain(&error);
            tracing::debug!(path, error, "cannot listen for a client");
            false
        }
    }
}

/// The path of the socket that leads to the client's agent; made at the first request of a connection.
/// `None` when it is forbidden or impossible.
pub(in super::super) async fn agent(
    connection: &Arc<Connection>,
    handle: Handle,
) -> Option<PathBuf> {
    if !may_use_agent(connection) {
        return None;
    }
    let known = lock(&connection.forwards.agent).clone();
    if known.is_some() {
        return known;
    }
    match open(connection, Jail::listen_for_agent).await {
        Ok(socket) => {
            let path = socket.1.path.clone();
            *lock(&connection.forwards.agent) = Some(path.clone());
            serve(connection, socket, Opener::Agent, handle, connection.gone.child_token());
            Some(path)
        }
        Err(error) => {
            tracing::warn!(
                error = crate::telemetry::chain(&error),
                "cannot forward the client's \
                SSH agent"
            );
            None
        }
    }
}

type Socket = (UnixListener, SocketFile);

async fn open(
    connection: &Connection,
    act: impl FnOnce(&Jail) -> Result<(std::os::unix::net::UnixListener, SocketFile), jail::Error>
    + Send
    + 'static,
) -> Result<Socket, Error> {
    let (listener, file) = in_jail(connection, START, act).await?;
    Ok((UnixListener::from_std(listener)?, file))
}

/// What is opened towards the client for each connection to a socket.
#[derive(Debug, Clone)]
enum Opener {
    Streamlocal(String),
    Agent,
}

/// Accepts until the token is cancelled, at the latest with the connection; then the socket goes.
fn serve(
    connection: &Arc<Connection>,
    (listener, file): Socket,
    opener: Opener,
    handle: Handle,
    token: CancellationToken,
) {
    let connection = Arc::clone(connection);
    connection.shared.clone().sockets.spawn(async move {
        token.run_until_cancelled(accept(&connection, &listener, &opener, &handle)).await;
        drop(listener);
        let removed = in_jail(&connection, START, move |jail| jail.remove(&file)).await;
        if let Err(error) = removed {
            tracing::warn!(
                error = crate::telemetry::chain(&error),
                "cannot remove a client's \
                socket"
            );
        }
    });
}

async fn accept(
    connection: &Arc<Connection>,
    listener: &UnixListener,
    opener: &Opener,
    handle: &Handle,
) {
    while let Ok(slot) = Arc::clone(&connection.forwards.slots).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (connection, opener, handle) =
                    (Arc::clone(connection), opener.clone(), handle.clone());
                tokio::spawn(async move {
                    let _slot = slot;
                    let (read, write) = stream.into_split();
                    let opening = async {
                        match opener {
                            Opener::Streamlocal(path) => {
                                handle.channel_open_forwarded_streamlocal(path).await
                            }
                            Opener::Agent => handle.channel_open_agent().await,
                        }
                    };
                    join_opened(connection, opening, read, write).await;
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection for a client");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
