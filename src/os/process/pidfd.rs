//! A process by descriptor: its number cannot be taken over by another one meanwhile.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::Process;

/// pidfd_open(2). Becomes readable when the process ends.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// The process `pid` as it is now.
    pub fn open(pid: i32) -> Result<Self, Errno> {
        // SAFETY: neither std nor nix has this call. It takes two integers and touches no memory.
        let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
        let fd = i32::try_from(fd).expect("a descriptor is an int");
        // SAFETY: the kernel just made this descriptor for us, so nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The process that `process` describes; `ESRCH` if it is gone, even if its number is in use
    /// again.
    pub fn of(process: &Process) -> Result<Self, Errno> {
        let fd = Self::open(process.pid)?;
        match Process::read(process.pid) {
            Some(now) if now.start_time == process.start_time => Ok(fd),
            _ => Err(Errno::ESRCH),
        }
    }

    pub fn signal(&self, signal: Signal) -> Result<(), Errno> {
        let info: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: neither std nor nix has this call. A null `info` is documented to mean "as
        // kill(2)"; the descriptor is open as long as `self` lives.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                signal as libc::c_int,
                info,
                0,
            )
        };
        Errno::result(result).map(drop)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
