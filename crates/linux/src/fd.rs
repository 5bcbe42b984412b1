//! File descriptors: those that the parent process has passed down, and waiting for some to be readable.

use std::io;
use std::net::TcpListener;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
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

/// Waits until there is something to read, or the end, at one of these at least; at which, in their order.
pub fn wait_readable(files: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
    let mut polled: Vec<_> = files.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    while let Err(errno) = poll(&mut polled, PollTimeout::NONE) {
        if errno != Errno::EINTR {
            return Err(errno.into());
        }
    }
    Ok(polled.iter().map(|fd| fd.any().unwrap_or(true)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn only_what_can_be_read_is_named() {
        let (quiet, _quiet_writer) = io::pipe().unwrap();
        let (full, mut writer) = io::pipe().unwrap();
        let (ended, ended_writer) = io::pipe().unwrap();
        writer.write_all(b"x").unwrap();
        drop(ended_writer);
        let found = wait_readable(&[quiet.as_fd(), full.as_fd(), ended.as_fd()]).unwrap();
        assert_eq!(found, [false, true, true]);
    }
}
