//! TCP forwarding: `direct-tcpip` (`ssh -L`, `-D`, `-W`) and `tcpip-forward` (`ssh -R`).
//!
//! Connections are opened and accepted in the network of the agent's container, which sessions share.
//! If the network of sessions is filtered, a process inside the jail opens the sockets, so the
//! filter applies to them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use russh::ChannelWriteHalf;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use tokio::net::{TcpListener, TcpStream};

use super::super::authorized_keys::{Host, PermitListen, PermitOpen};
use super::super::config::Forwarding;
use super::super::connection::Connection;
use super::super::session::START;
use super::unix::{Error, in_jail};
use super::{CONNECT, Place, join_opened};
use linux::wildcard;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// An address a client may connect to.
#[derive(Debug)]
pub(in super::super) struct Target {
    host: String,
    port: u16,
}

impl Target {
    /// `None` when the server or the key forbid it.
    pub(in super::super) fn permitted(
        connection: &Connection,
        host: &str,
        port: u32,
    ) -> Option<Self> {
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
            Host::Pattern(pattern) => wildcard::matches(pattern, host),
        };
        host_fits && self.port.is_none_or(|own| own == port)
    }
}

/// Connects to `target` for a client.
pub(in super::super) fn direct(
    connection: Arc<Connection>,
    channel: ChannelWriteHalf<Msg>,
    target: Target,
    reply: ChannelOpenHandle,
) {
    let name = format!("{}:{}", target.host, target.port);
    let jailed = Arc::clone(&connection);
    super::direct(connection, channel, reply, name, async move {
        let tcp = tokio::time::timeout(CONNECT, connect(&jailed, target)).await??;
        let _ = tcp.set_nodelay(true);
        Ok::<_, Error>(tcp.into_split())
    });
}

async fn connect(
    connection: &Connection,
    Target { host, port }: Target,
) -> Result<TcpStream, Error> {
    if !connection.shared.config.jail.is_filtered() {
        return Ok(TcpStream::connect((host, port)).await?);
    }
    let mut result = Err(io::Error::from(io::ErrorKind::NotFound).into());
    for address in tokio::net::lookup_host((host, port)).await? {
        result = connect_in_jail(connection, address).await;
        if result.is_ok() {
            break;
        }
    }
    result
}

async fn connect_in_jail(connection: &Connection, address: SocketAddr) -> Result<TcpStream, Error> {
    let connecting = in_jail(connection, CONNECT, move |jail| jail.connect_tcp(address)).await?;
    let tcp = TcpStream::from_std(connecting)?;
    // As connect(2) says for a socket that does not wait: it can be written to when it is known.
    tcp.writable().await?;
    match tcp.take_error()? {
        Some(error) => Err(error.into()),
        None => Ok(tcp),
    }
}

/// Listens for a client; a `port` of 0 is set to the one that was chosen. `false` when it is forbidden
/// or impossible.
pub(in super::super) async fn listen(
    connection: &Arc<Connection>,
    address: &str,
    port: &mut u32,
    handle: Handle,
) -> bool {
    let Ok(wanted) = u16::try_from(*port) else { return false };
    if !may_listen(connection, address, wanted) || connection.forwards.is_full() {
        return false;
    }
    let (listeners, bound) = match bind(connection, address, wanted).await {
        Ok(bound) => bound,
        Err(error) => {
            let error = crate::telemetry::chain(&error);
            tracing::debug!(address, port = wanted, error, "cannot listen for a client");
            return false;
        }
    };
    *port = bound.into();
    let place = Place::Tcp(address.to_owned(), *port);
    let token = connection.forwards.enter(place, connection);
    for listener in listeners {
        let (connection, address) = (Arc::clone(connection), address.to_owned());
        let accepting = accept(connection, listener, bound, address, handle.clone());
        tokio::spawn(token.clone().run_until_cancelled_owned(accepting));
    }
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

/// Always on the loopback interface (sshd's `GatewayPorts no`), regardless of the requested
/// address: on both of its addresses, unless one of them was named; one of the two may be in use.
/// Also returns the port.
async fn bind(
    connection: &Connection,
    address: &str,
    port: u16,
) -> Result<(Vec<TcpListener>, u16), Error> {
    let wanted: &[IpAddr] = match address {
        "127.0.0.1" => &[V4],
        "::1" => &[V6],
        _ => &[V4, V6],
    };
    let (mut listeners, mut port, mut failed) = (Vec::new(), port, None);
    for ip in wanted {
        match bind_one(connection, SocketAddr::new(*ip, port)).await {
            Ok((listener, bound)) => {
                listeners.push(listener);
                port = bound;
            }
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if listeners.is_empty() => Err(error),
        _ => Ok((listeners, port)),
    }
}

async fn bind_one(
    connection: &Connection,
    address: SocketAddr,
) -> Result<(TcpListener, u16), Error> {
    let listener = match connection.shared.config.jail.is_filtered() {
        true => in_jail(connection, START, move |jail| jail.listen_tcp(address)).await?,
        false => std::net::TcpListener::bind(address)?,
    };
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    Ok((TcpListener::from_std(listener)?, port))
}

async fn accept(
    connection: Arc<Connection>,
    listener: TcpListener,
    port: u16,
    address: String,
    handle: Handle,
) {
    while let Ok(slot) = Arc::clone(&connection.forwards.slots).acquire_owned().await {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                let _ = tcp.set_nodelay(true);
                let (connection, address, handle) =
                    (Arc::clone(&connection), address.clone(), handle.clone());
                tokio::spawn(async move {
                    let _slot = slot;
                    let (from, from_port) = (peer.ip().to_string(), peer.port().into());
                    let opening =
                        handle.channel_open_forwarded_tcpip(address, port.into(), from, from_port);
                    let (read, write) = tcp.into_split();
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
