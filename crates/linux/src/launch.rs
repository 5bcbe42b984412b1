//! Children in a mount namespace of their own.

use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, chdir, fchdir, mkdir};
use tokio::process::Command;

use super::service;

/// What a child gets when its parent is gone.
#[derive(Debug, Clone, Copy)]
pub enum Orphaned {
    /// SIGTERM: it tidies up.
    Ended,
    /// SIGKILL: it changes nothing any more, so that another can continue where it was.
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
    let before = service::before();
    let signal = match orphaned {
        Orphaned::Ended => Signal::SIGTERM,
        Orphaned::Killed => Signal::SIGKILL,
    };
    let enter = move || {
        const NONE: Option<&str> = None;
        nix::sys::prctl::set_pdeathsig(signal)?;
        if let Some(before) = before {
            before.restore()?;
        }
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

/// Hides `directory` from the child of an [`isolate`]d `command`, all but `kept` in it, and what is in
/// `files`: whatever the child starts, as root as it may be, has no other way to them.
pub fn hide(
    command: &mut Command,
    directory: &Path,
    kept: Option<&Path>,
    files: &[PathBuf],
) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let below = kept.map_or(Ok(Path::new("")), |kept| kept.strip_prefix(directory));
    let below = below.map_err(io::Error::other)?;
    // Every directory on the way to `kept`, itself the last.
    let mut way = Vec::new();
    let mut at = directory.to_owned();
    for part in below {
        at.push(part);
        way.push(text(&at)?);
    }
    let files = files.iter().filter(|file| !file.starts_with(directory));
    let files = files.map(|file| text(file)).collect::<Result<Vec<_>, _>>()?;
    let directory = text(directory)?;
    let enter = move || {
        const NONE: Option<&str> = None;
        let open_kept = |path| open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
        let kept = way.last().map(|kept| open_kept(kept.as_c_str())).transpose()?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let options = Some(c"mode=0700,size=64k");
        mount(Some(c"tmpfs"), directory.as_c_str(), Some(c"tmpfs"), flags, options)?;
        if let (Some(kept), Some(to)) = (kept, way.last()) {
            for made in &way {
                mkdir(made.as_c_str(), Mode::S_IRWXU)?;
            }
            fchdir(&kept)?;
            mount(Some(c"."), to.as_c_str(), NONE, MsFlags::MS_BIND, NONE)?;
            chdir(c"/")?;
        }
        for file in &files {
            mount(Some(c"/dev/null"), file.as_c_str(), NONE, MsFlags::MS_BIND, NONE)?;
        }
        Ok(())
    };
    // SAFETY: needed because the mounts must be made in the child's own namespace, between fork and
    // exec. The closure makes system calls only, on strings made before the fork: it takes no lock and
    // allocates nothing.
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
