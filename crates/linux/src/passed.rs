//! Sockets that an untrusted process has passed: only what was asked for is taken.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::socket::{SockType, getsockopt, sockopt};

/// A kind of stream socket of the standard library.
trait Socket: From<OwnedFd> {
    /// Fails where the socket is of another address family.
    fn check_family(&self) -> io::Result<()>;
    fn stop_blocking(&self) -> io::Result<()>;
}

macro_rules! sockets {
    ($($type:ty),*) => {
        $(impl Socket for $type {
            fn check_family(&self) -> io::Result<()> {
                self.local_addr().map(drop)
            }

            fn stop_blocking(&self) -> io::Result<()> {
                self.set_nonblocking(true)
            }
        })*
    };
}

sockets!(TcpStream, TcpListener, UnixStream, UnixListener);

/// A TCP socket that connects or is connected.
pub fn tcp_stream(passed: OwnedFd) -> io::Result<TcpStream> {
    take(passed, false)
}

/// A listening TCP socket.
pub fn tcp_listener(passed: OwnedFd) -> io::Result<TcpListener> {
    take(passed, true)
}

/// A connected Unix socket.
pub fn unix_stream(passed: OwnedFd) -> io::Result<UnixStream> {
    take(passed, false)
}

/// A listening Unix socket.
pub fn unix_listener(passed: OwnedFd) -> io::Result<UnixListener> {
    take(passed, true)
}

fn take<S: Socket>(passed: OwnedFd, listens: bool) -> io::Result<S> {
    let is_stream = getsockopt(&passed, sockopt::SockType)? == SockType::Stream;
    if !is_stream || getsockopt(&passed, sockopt::AcceptConn)? != listens {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not the expected socket"));
    }
    let socket = S::from(passed);
    socket.check_family()?;
    socket.stop_blocking()?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{tcp, unix};

    #[test]
    fn only_the_tcp_socket_that_was_asked_for_is_taken() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let connecting = tcp::begin_to_connect(listening.local_addr().unwrap()).unwrap();
        let again = || connecting.try_clone().unwrap();
        assert!(tcp_listener(again()).is_err());
        assert!(tcp_stream(OwnedFd::from(listening.try_clone().unwrap())).is_err());
        assert!(tcp_stream(std::fs::File::open("/dev/null").unwrap().into()).is_err());
        let (unix, _other) = UnixStream::pair().unwrap();
        assert!(tcp_stream(unix.into()).is_err());
        assert!(tcp_stream(again()).is_ok() && tcp_listener(listening.into()).is_ok());
    }

    #[test]
    fn only_the_unix_socket_that_was_asked_for_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        // Not by `unix::listen`: the umask is that of all tests.
        let listening: OwnedFd = UnixListener::bind(&path).unwrap().into();
        let connected = unix::connect_now(&path).unwrap();
        let again = || connected.try_clone().unwrap();
        assert!(unix_listener(again()).is_err());
        assert!(unix_stream(listening.try_clone().unwrap()).is_err());
        assert!(unix_stream(std::fs::File::open("/dev/null").unwrap().into()).is_err());
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(unix_listener(tcp.into()).is_err());
        assert!(unix_stream(again()).is_ok() && unix_listener(listening).is_ok());
    }
}
