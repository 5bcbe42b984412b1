//! Unix stream sockets by path: made by a process of the jail, and checked by the agent that is
//! handed them. Called by `jail`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, umask};

/// Connects without waiting: a listener whose queue is full is EAGAIN, as sshd treats it.
pub fn connect_now(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let made = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(made.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(made)
}

/// Listens at `path`, for its owner alone (sshd's StreamLocalBindMask 0177).
///
/// Changes the umask of the whole process: for one that does nothing else.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    umask(Mode::from_bits_truncate(0o177));
    Ok(UnixListener::bind(path)?.into())
}

/// A connected socket that an untrusted process has passed; anything else is refused.
pub fn stream(passed: OwnedFd) -> io::Result<UnixStream> {
    check(&passed, false)?;
    let stream = UnixStream::from(passed);
    // Fails where the address family is another.
    stream.local_addr()?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// A listening socket that an untrusted process has passed; anything else is refused.
pub fn listener(passed: OwnedFd) -> io::Result<UnixListener> {
    check(&passed, true)?;
    let listener = UnixListener::from(passed);
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
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_what_was_asked_for_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listening = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let connected = connect_now(&path).unwrap();
        let again = || connected.try_clone().unwrap();
        assert!(listener(again()).is_err());
        assert!(stream(listening.try_clone().unwrap()).is_err());
        assert!(stream(std::fs::File::open("/dev/null").unwrap().into()).is_err());
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(listener(tcp.into()).is_err());
        assert!(stream(again()).is_ok() && listener(listening).is_ok());
    }
}
