//! Where the SSH server listens: an address, or a socket that the parent process has opened.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::str::FromStr;

use anyhow::Context;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that wait to be accepted, as OpenSSH's sshd lets them.
const BACKLOG: u32 = 128;

/// `--ssh-listen`: `ADDR:PORT`, or `fd://N` for a listening socket that was passed down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    Address(SocketAddr),
    Inherited(RawFd),
}

impl Default for Listen {
    /// The port of SSH, on every address.
    fn default() -> Self {
        Self::Address(SocketAddr::from(([0, 0, 0, 0], 22)))
    }
}

/// The port is ours; nobody can connect yet.
pub(crate) enum Bound {
    Socket(TcpSocket, SocketAddr),
    /// Kept, since it cannot be opened again.
    Inherited(std::net::TcpListener),
    /// It was listened on and given up.
    Released(SocketAddr),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("fd://") {
            Some(number) => number
                .parse()
                .map(Self::Inherited)
                .map_err(|_| format!("{number:?} is not the number of a file descriptor")),
            None => text
                .parse()
                .map(Self::Address)
                .map_err(|_| "expected ADDRESS:PORT, [ADDRESS]:PORT or fd://N".into()),
        }
    }
}

impl Listen {
    /// Takes the port, so that a port in use is known before anything is fetched.
    pub(crate) fn bind(self) -> anyhow::Result<Bound> {
        match self {
            Self::Inherited(fd) => {
                let listener = linux::fd::inherited_listener(fd)
                    .with_context(|| format!("fd://{fd} is not a listening socket"))?;
                Ok(Bound::Inherited(listener))
            }
            Self::Address(address) => {
                let socket =
                    bind(address).with_context(|| format!("cannot listen on {address}"))?;
                Ok(Bound::Socket(socket, address))
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

impl Bound {
    pub(crate) fn port(&self) -> Option<u16> {
        let address = match self {
            Self::Inherited(listener) => listener.local_addr(),
            Self::Socket(socket, _) => socket.local_addr(),
            Self::Released(address) => Ok(*address),
        };
        address.ok().map(|address| address.port())
    }

    /// Lets clients connect, until the listener is dropped. It can be called again then: users may come
    /// back.
    pub(crate) fn listen(&mut self) -> anyhow::Result<TcpListener> {
        let (socket, address) = match self {
            Self::Inherited(listener) => {
                let listener = listener.try_clone().and_then(TcpListener::from_std);
                return listener.context("cannot listen on the socket that was passed down");
            }
            Self::Socket(_, address) | Self::Released(address) => {
                let address = *address;
                match std::mem::replace(self, Self::Released(address)) {
                    Self::Socket(socket, _) => (Ok(socket), address),
                    _ => (bind(address), address),
                }
            }
        };
        let listener = socket.and_then(|socket| {
            let listener = socket.listen(BACKLOG)?;
            // Port 0 became one that clients know.
            *self = Self::Released(listener.local_addr()?);
            Ok(listener)
        });
        listener.with_context(|| format!("cannot listen on {address}"))
    }
}
