//! Unix stream sockets by path: made by a process of the jail, and checked by the agent that is
//! handed them. Called by `jail`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
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

/// Whether there is something to read, or the end, within `limit`.
pub fn wait_readable(socket: &UnixStream, limit: Duration) -> io::Result<bool> {
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    let mut polled = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match poll(&mut polled, timeout) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
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

/// Listens at `path` for root alone; what a process before us has left there is replaced. For a path of
/// any length (a socket's address has room for 107 bytes), in a directory that only root may enter.
pub fn listen_private(path: &Path) -> io::Result<UnixListener> {
    let (_directory, short) = shortened(path)?;
    match std::fs::remove_file(&short) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&short)?;
    std::fs::set_permissions(&short, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to such a socket.
pub fn connect_private(path: &Path) -> io::Result<UnixStream> {
    let (_directory, short) = shortened(path)?;
    let stream = UnixStream::connect(&short)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// A name for `path` that is good as long as the descriptor of its directory is open.
fn shortened(path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = super::openat::directory(parent)?;
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    Ok((directory, short))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_private_socket_may_lie_deep_and_replaces_a_stale_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep".repeat(40)).join("socket");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        drop(listen_private(&path).unwrap());
        assert!(connect_private(&path).is_err());
        let _listener = listen_private(&path).unwrap();
        assert!(connect_private(&path).is_ok());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn only_what_was_asked_for_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        // Not by `listen`: the umask is that of all tests.
        let listening: OwnedFd = UnixListener::bind(&path).unwrap().into();
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
