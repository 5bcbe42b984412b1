//! Handles on processes (pidfd_open(2)): waiting for an end without being the parent.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

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
