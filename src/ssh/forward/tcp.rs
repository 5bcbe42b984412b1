//! TCP forwarding: `direct-tcpip` (`ssh -L`, `-D`, `-W`) and `tcpip-forward` (`ssh -R`).
//!
//! Connections are made and accepted in the network of the agent's container, which sessions share.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use russh::ChannelWriteHalf;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use tokio::net::{TcpListener, TcpStream};

use super::super::authorized_keys::{Host, PermitListen, PermitOpen, matches};
use super::super::config::Forwarding;
use super::super::connection::Connection;
use super::{CONNECT, Place, join_opened};

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
            Host::Pattern(pattern) => matches(pattern, host),
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
    super::direct(connection, channel, reply, name, async move {
        let connecting = TcpStream::connect((target.host, target.port));
        let tcp = tokio::time::timeout(CONNECT, connecting).await??;
        let _ = tcp.set_nodelay(true);
        Ok::<_, io::Error>(tcp.into_split())
    });
}

/// Listens for a client; a `port` of 0 is set to the one that was chosen. `false` when it is forbidden
/// or impossible.
pub(in super::super) fn listen(
    connection: &Arc<Connection>,
    address: &str,
    port: &mut u32,
    handle: Handle,
) -> bool {
    let Ok(wanted) = u16::try_from(*port) else { return false };
    if !may_listen(connection, address, wanted) || connection.forwards.is_full() {
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
    let place = Place::Tcp(address.to_owned(), *port);
    let token = connection.forwards.enter(place, connection);
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
    while let Ok(slot) = Arc::clone(&connection.forwards.slots).acquire_owned().await {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                let _ = tcp.set_nodelay(true);
                let (connection, address, handle) =
                    (Arc::clone(&connection), address.clone(), handle.clone());
                tokio::spawn(async move {
                    let _slot = slot;
                    let (port, from) = (u32::from(local.port()), peer.ip().to_string());
                    let opening = handle.channel_open_forwarded_tcpip(
                        address,
                        port,
                        from,
                        peer.port().into(),
                    );
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
