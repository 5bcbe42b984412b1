//! Where the SSH server listens: an address, or a socket that the parent process has opened.

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
pub(super) enum Bound {
    Socket(TcpSocket, SocketAddr),
    Listening(TcpListener),
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
    pub(super) fn bind(self) -> anyhow::Result<Bound> {
        match self {
            Self::Inherited(fd) => {
                let listener = crate::os::fd::inherited_listener(fd)
                    .and_then(TcpListener::from_std)
                    .with_context(|| format!("fd://{fd} is not a listening socket"))?;
                Ok(Bound::Listening(listener))
            }
            Self::Address(address) => {
                let bind = || {
                    let socket =
                        if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
                    socket.set_reuseaddr(true)?;
                    socket.bind(address)?;
                    Ok::<_, std::io::Error>(socket)
                };
                let socket = bind().with_context(|| format!("cannot listen on {address}"))?;
                Ok(Bound::Socket(socket, address))
            }
        }
    }
}

impl Bound {
    pub(super) fn listen(self) -> anyhow::Result<TcpListener> {
        match self {
            Self::Listening(listener) => Ok(listener),
            Self::Socket(socket, address) => {
                socket.listen(BACKLOG).with_context(|| format!("cannot listen on {address}"))
            }
        }
    }
}
