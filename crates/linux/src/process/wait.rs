//! Ended children: looking at them, and taking their status, as pid 1 or a subreaper must.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

/// The next ended child and its raw wait(2) status; `None` if none has ended, or there is none.
pub fn next() -> io::Result<Option<(Pid, i32)>> {
    let mut status = 0;
    // SAFETY: `status` is live for the call. nix would turn the status into an enum that loses it.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    match pid {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some((Pid::from_raw(pid), status))),
        _ => match Errno::last() {
            Errno::ECHILD => Ok(None),
            errno => Err(errno.into()),
        },
    }
}

/// Whether this child has ended; its status stays to be taken.
pub fn has_ended(child: Pid) -> bool {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    !matches!(waitid(Id::Pid(child), flags), Ok(WaitStatus::StillAlive))
}

/// Kills this child and waits for its end. That it is gone already is no error.
///
/// Takes the status of other children too: the first process of a pid namespace does not end before all others
/// in the namespace have, and those that are children of this process wait for it to take their status.
pub fn kill_and_wait(child: Pid) {
    let _ = kill(child, Signal::SIGKILL);
    loop {
        match waitpid(None, None) {
            Ok(status) if status.pid() == Some(child) => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}
