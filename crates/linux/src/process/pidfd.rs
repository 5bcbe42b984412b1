//! Handles of processes (pidfd_open(2)): wait for their end without being the parent.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, waitid};

/// A handle on the process; close-on-exec.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers; nix has no pidfd_open.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made by the kernel for us, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Ends the process by force; that it has ended already is an error.
pub fn kill(pidfd: impl AsFd) -> io::Result<()> {
    let (fd, none) = (pidfd.as_fd().as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
    // SAFETY: plain numbers, and no further information on the signal; nix has no pidfd_send_signal.
    let rc = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::SIGKILL, none, 0u32) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Takes the status of a child that has ended. One that is not (any more) ours is no error.
pub fn reap(pidfd: impl AsFd) {
    // A reaper of all orphans may have been faster; there is nothing to do about any error.
    let _ = waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG);
}

/// `true` once the process has ended, `false` if it has not by the deadline.
pub fn wait_until(pidfd: impl AsFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now()).min(Duration::from_secs(60));
        // One millisecond more than what is left: rounding down would spin at the end.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1))
            .expect("a minute in milliseconds fits");
        let mut polled = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, timeout) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}
