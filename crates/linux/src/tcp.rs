//! TCP sockets made by a process of the jail, and checked by the agent that is handed them. Called by
//! `jail`.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, connect, getsockopt, socket,
    sockopt,
};

/// Begins to connect, and does not wait for the end of it.
pub fn begin_to_connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
    match connect(made.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(made),
        Err(errno) => Err(errno.into()),
    }
}

/// A socket that connects or is connected, which an untrusted process has passed; anything else is
/// refused.
pub fn stream(passed: OwnedFd) -> io::Result<TcpStream> {
    check(&passed, false)?;
    let stream = TcpStream::from(passed);
    // Fails where the address family is another.
    stream.local_addr()?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// A listening socket that an untrusted process has passed; anything else is refused.
pub fn listener(passed: OwnedFd) -> io::Result<TcpListener> {
    check(&passed, true)?;
    let listener = TcpListener::from(passed);
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn check(passed: &impl AsFd, listens: bool) -> io::Result<()> {
    let is_stream = getsockopt(passed, sockopt::SockType)? == SockType::Stream;
    match is_stream && getsockopt(passed, sockopt::AcceptConn)? == listens {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "not the socket asked for")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_taken() {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let connecting = begin_to_connect(listening.local_addr().unwrap()).unwrap();
        let again = || connecting.try_clone().unwrap();
        assert!(listener(again()).is_err());
        assert!(stream(OwnedFd::from(listening.try_clone().unwrap())).is_err());
        assert!(stream(std::fs::File::open("/dev/null").unwrap().into()).is_err());
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(stream(unix.into()).is_err());
        assert!(stream(again()).is_ok() && listener(listening.into()).is_ok());
    }
}
