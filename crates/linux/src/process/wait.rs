//! Taking the status of ended children, as pid 1 or a subreaper must. Used by the jail's init.

use std::io;

use nix::errno::Errno;
use nix::sys::wait::WaitPidFlag;
use nix::unistd::Pid;

/// The next ended child and its raw wait(2) status; `None` if none has ended, or there is none.
pub fn next(flags: WaitPidFlag) -> io::Result<Option<(Pid, i32)>> {
    let mut status = 0;
    // SAFETY: `status` is live for the call. nix would turn the status into an enum that loses it.
    let pid = unsafe { libc::waitpid(-1, &mut status, flags.bits()) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some((Pid::from_raw(pid), status))),
        _ => match Errno::last() {
            Errno::ECHILD => Ok(None),
            errno => Err(errno.into()),
        },
    }
}
