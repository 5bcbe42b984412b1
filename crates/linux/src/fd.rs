//! File descriptors that the parent process has passed down. Called by `job`.

use std::io;
use std::net::TcpListener;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{getsockopt, sockopt};

/// Takes over a listening TCP socket, as systemd and standalone pass them. Call it once for a number.
pub fn inherited_listener(fd: RawFd) -> io::Result<TcpListener> {
    if fd <= 2 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "0, 1 and 2 are not sockets"));
    }
    // SAFETY: the number comes from the operator and there is no safe way to own it. fcntl fails on
    // one that is not open; nothing in this program uses an inherited descriptor but this call.
    let owned = unsafe { OwnedFd::from_raw_fd(check_open(fd)?) };
    if !getsockopt(&owned, sockopt::AcceptConn)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a listening socket"));
    }
    // Sessions must not inherit it.
    fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let listener = TcpListener::from(owned);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn check_open(fd: RawFd) -> io::Result<RawFd> {
    // SAFETY: F_GETFD reads a flag of a descriptor number and touches no memory; on a number that
    // is not open it answers EBADF.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd)
}
