//! TCP forwarding: `direct-tcpip` (`ssh -L`, `-D`, `-W`) and `tcpip-forward` (`ssh -R`).
//!
//! Connections are made and accepted in the network of the agent's container, which sessions share.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{ChannelOpenFailure, ChannelWriteHalf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio_util::sync::CancellationToken;

use super::authorized_keys::{Host, PermitListen, PermitOpen, matches};
use super::channel::State;
use super::config::Forwarding;
use super::connection::{Connection, Outlet};
use super::flow::Inbox;

const CONNECT: Duration = Duration::from_secs(30);
const READ: usize = 64 << 10;
/// How long a connection may take to accept the rest of what a client sent before it left.
const LAST_UPLOAD: Duration = Duration::from_secs(60);
/// Listening sockets of one connection.
const MAX_LISTENERS: usize = 64;

/// An address a client may connect to.
#[derive(Debug)]
pub(super) struct Target {
    host: String,
    port: u16,
}

impl Target {
    /// `None` when the server or the key forbid it.
    pub(super) fn permitted(connection: &Connection, host: &str, port: u32) -> Option<Self> {
        let options = &connection.grant.get()?.options;
        let port = u16::try_from(port).ok()?;
        let allowed = connection.shared.config.forwarding != Forwarding::None
            && options.port_forwarding
            && (options.permit_open.is_empty()
                || options.permit_open.iter().any(|open| open.fits(host, port)));
        allowed.then(|| Self { host: host.to_owned(), port })
    }
}

impl PermitOpen {
    fn fits(&self, host: &str, port: u16) -> bool {
        self.host.eq_ignore_ascii_case(host) && self.port.is_none_or(|own| own == port)
    }
}

impl PermitListen {
    fn fits(&self, host: &str, port: u16) -> bool {
        let host_fits = match &self.host {
            Host::Any => true,
            Host::Pattern(pattern) => matches(pattern, host),
        };
        host_fits && self.port.is_none_or(|own| own == port)
    }
}

/// Connects to `target` and answers the client's request; the rest goes on in its own task.
pub(super) fn direct(
    connection: Arc<Connection>,
    write: ChannelWriteHalf<Msg>,
    target: Target,
    reply: ChannelOpenHandle,
) {
    tokio::spawn(async move {
        let id = write.id();
        let Some((inbox, closed)) = registered(&connection, &write) else { return };
        let connecting = TcpStream::connect((target.host.as_str(), target.port));
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(Ok(tcp)) => {
                reply.accept().await;
                join(tcp, inbox, Outlet::new(write, connection, closed)).await;
            }
            failed => {
                tracing::debug!(host = target.host, port = target.port, ?failed, "not forwarded");
                connection.channels().remove(&id);
                reply.reject(ChannelOpenFailure::ConnectFailed).await;
            }
        }
    });
}

/// Takes over the inbox that the handler has made for a channel.
fn registered(
    connection: &Connection,
    write: &ChannelWriteHalf<Msg>,
) -> Option<(Inbox, CancellationToken)> {
    let mut channels = connection.channels();
    let entry = channels.get_mut(&write.id())?;
    entry.state = State::Forward;
    let (inbox, closed) = (entry.inbox.clone(), entry.closed.clone());
    // A client may have closed the channel already, with data in it that is still to be delivered.
    if closed.is_cancelled() {
        channels.remove(&write.id());
    }
    Some((inbox, closed))
}

/// Both directions, each with its own end.
async fn join(tcp: TcpStream, inbox: Inbox, outlet: Outlet) {
    let _ = tcp.set_nodelay(true);
    let (read, write) = tcp.into_split();
    let up = async {
        // What came before the client's close is delivered, unless nobody takes it.
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

async fn upload(inbox: &Inbox, mut tcp: tcp::OwnedWriteHalf) -> io::Result<()> {
    while let Some(bytes) = inbox.next().await? {
        tcp.write_all(&bytes).await?;
    }
    tcp.shutdown().await
}

async fn download(outlet: &Outlet, mut tcp: tcp::OwnedReadHalf) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ);
        if tcp.read_buf(&mut buffer).await? == 0 || !outlet.send(buffer.split().freeze()).await {
            return Ok(());
        }
    }
}

/// The listening sockets of one connection, by the address and port that the client named.
#[derive(Debug, Default)]
pub(super) struct Listeners(Mutex<HashMap<(String, u32), CancellationToken>>);

impl Listeners {
    pub(super) fn cancel(&self, address: &str, port: u32) -> bool {
        match self.lock().remove(&(address.to_owned(), port)) {
            Some(token) => {
                token.cancel();
                true
            }
            None => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, u32), CancellationToken>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Listens for a client; a `port` of 0 is set to the one that was chosen. `false` when it is forbidden
/// or impossible.
pub(super) fn listen(
    connection: &Arc<Connection>,
    address: &str,
    port: &mut u32,
    handle: Handle,
) -> bool {
    let Ok(wanted) = u16::try_from(*port) else { return false };
    if !may_listen(connection, address, wanted) || connection.forwards.lock().len() >= MAX_LISTENERS
    {
        return false;
    }
    let listener = match bind(address, wanted) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::debug!(address, port = wanted, %error, "cannot listen for a client");
            return false;
        }
    };
    let Ok(local) = listener.local_addr() else { return false };
    *port = local.port().into();
    let token = connection.gone.child_token();
    let key = (address.to_owned(), *port);
    connection.forwards.lock().insert(key, token.clone());
    let accepting = accept(Arc::clone(connection), listener, address.to_owned(), handle);
    tokio::spawn(async move { token.run_until_cancelled(accepting).await });
    true
}

fn may_listen(connection: &Connection, address: &str, port: u16) -> bool {
    let Some(grant) = connection.grant.get() else { return false };
    let options = &grant.options;
    connection.shared.config.forwarding == Forwarding::All
        && options.port_forwarding
        && (options.permit_listen.is_empty()
            || options.permit_listen.iter().any(|listen| listen.fits(address, port)))
}

/// Always on the loopback interface (sshd's `GatewayPorts no`), whatever address was asked for.
fn bind(address: &str, port: u16) -> io::Result<TcpListener> {
    let local = match address {
        "::1" => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)),
        _ => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
    };
    let listener = std::net::TcpListener::bind(local)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

async fn accept(
    connection: Arc<Connection>,
    listener: TcpListener,
    address: String,
    handle: Handle,
) {
    let Ok(local) = listener.local_addr() else { return };
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                let (connection, address, handle) =
                    (Arc::clone(&connection), address.clone(), handle.clone());
                tokio::spawn(async move {
                    let port = u32::from(local.port());
                    let opening = handle.channel_open_forwarded_tcpip(
                        address,
                        port,
                        peer.ip().to_string(),
                        peer.port().into(),
                    );
                    if let Ok(channel) = opening.await {
                        // The reading half is dropped at once: input comes through the handler.
                        let (_, write) = channel.split();
                        match registered(&connection, &write) {
                            Some((inbox, closed)) => {
                                join(tcp, inbox, Outlet::new(write, connection, closed)).await;
                            }
                            None => {
                                let _ = write.close().await;
                            }
                        }
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection for a client");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
