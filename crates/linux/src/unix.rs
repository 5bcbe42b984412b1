//! Unix stream sockets by path: made by a process of the jail (`passed` is for who is handed them), or by
//! root for root.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::sys::stat::{Mode, umask};

use crate::dir::Dir;

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
fn shortened(path: &Path) -> io::Result<(Dir, PathBuf)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = Dir::open(parent)?;
    let short = directory.path_of(name);
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
}
