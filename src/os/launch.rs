//! Children in a mount namespace of their own. Called by `standalone`.

use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::Command;

/// What a child gets when its parent is gone.
#[derive(Debug, Clone, Copy)]
pub enum Orphaned {
    /// SIGTERM: it tidies up.
    Ended,
    /// SIGKILL: it changes nothing any more, so that another can go on where it was.
    Killed,
}

/// Lets the child of `command` see `directory` as `at`, in a mount namespace of its own.
///
/// `inherited`, if any, stays open in the child, under the same number. The child leads a process
/// group, and is `orphaned` when the *thread* that spawns it ends: spawn from one that lives on.
pub fn isolate(
    command: &mut Command,
    directory: &Path,
    at: &Path,
    inherited: Option<RawFd>,
    orphaned: Orphaned,
) -> io::Result<()> {
    let directory = CString::new(directory.as_os_str().as_bytes())?;
    let at = CString::new(at.as_os_str().as_bytes())?;
    command.process_group(0);
    let signal = match orphaned {
        Orphaned::Ended => Signal::SIGTERM,
        Orphaned::Killed => Signal::SIGKILL,
    };
    let enter = move || {
        const NONE: Option<&str> = None;
        nix::sys::prctl::set_pdeathsig(signal)?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
        mount(Some(directory.as_c_str()), at.as_c_str(), NONE, MsFlags::MS_BIND, NONE)?;
        if let Some(inherited) = inherited {
            // SAFETY: a descriptor number is only handed to fcntl, which checks it; the caller keeps
            // it open until the child was spawned.
            let inherited = unsafe { std::os::fd::BorrowedFd::borrow_raw(inherited) };
            fcntl(inherited, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(())
    };
    // SAFETY: needed because namespaces and descriptor flags must change between fork and exec. The
    // closure makes system calls only, on strings made before the fork: it takes no lock and
    // allocates nothing (paths shorter than nix's stack buffer, "/" and CStr alike).
    unsafe { command.pre_exec(enter) };
    Ok(())
}

/// Asks a process to end; one that is gone is no error.
pub fn terminate(pid: u32) {
    send(pid, Signal::SIGTERM);
}

/// Ends a process that did not end when asked.
pub fn kill_now(pid: u32) {
    send(pid, Signal::SIGKILL);
}

/// Ends a whole process group.
pub fn kill_group(leader: u32) {
    if let Some(group) = valid(leader) {
        // ESRCH, the only failure between root and its children: the group is gone.
        let _ = killpg(group, Signal::SIGKILL);
    }
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = valid(pid) {
        // ESRCH, the only failure between root and its children: the process is gone.
        let _ = kill(pid, signal);
    }
}

/// 0 and negative numbers would mean groups and everyone.
fn valid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|pid| *pid > 1).map(Pid::from_raw)
}
