//! Handles of processes (pidfd_open(2)): wait for their end without being the parent.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A handle on the process; close-on-exec.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(Errno::EINVAL)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Ends the process by force; that it has ended already is an error.
pub fn kill(pidfd: impl AsFd) -> io::Result<()> {
    Ok(pidfd_send_signal(pidfd, Signal::KILL)?)
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
