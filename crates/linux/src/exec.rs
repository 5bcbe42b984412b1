//! Becoming a session's process: fork, terminal, descriptors, signals, exec.

use std::ffi::CString;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, Gid, Pid, Uid, setgroups, setresgid, setresuid, setsid};

/// Proof that the process has one thread, so that a forked child may do more than exec.
///
/// Cannot leave its thread; who holds it starts no thread.
pub struct SingleThreaded(PhantomData<*const ()>);

impl fmt::Debug for SingleThreaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SingleThreaded")
    }
}

impl SingleThreaded {
    /// Fails if other threads run, or if `/proc` cannot be read.
    pub fn check() -> io::Result<SingleThreaded> {
        match std::fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(SingleThreaded(PhantomData)),
            n => Err(io::Error::other(format!("{n} threads where one is needed"))),
        }
    }

    /// Forks; `None` in the child.
    pub fn fork(&self) -> io::Result<Option<Pid>> {
        // SAFETY: there is no other thread, so no lock is held by one that the child lacks.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Parent { child } => Ok(Some(child)),
            ForkResult::Child => Ok(None),
        }
    }
}

/// What becomes descriptors 0, 1, 2 of a session's process.
#[allow(missing_docs, reason = "the fields are called what they are")]
pub enum Stdio {
    /// Three of them.
    Pipes { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
    /// One for all.
    Terminal(OwnedFd),
}

/// Makes the process lead a session of its own, on its terminal if it has one, with default signals.
///
/// Rust ignores SIGPIPE and init blocks SIGCHLD: neither may be inherited by a user's program.
pub fn lead_session(stdio: &Stdio) -> io::Result<()> {
    reset_signals()?;
    umask(Mode::S_IWGRP | Mode::S_IWOTH);
    setsid()?;
    match stdio {
        Stdio::Terminal(terminal) => super::pty::set_controlling(terminal),
        Stdio::Pipes { .. } => Ok(()),
    }
}

/// Puts stdio at 0 to 2 and `keep` at 3 (close-on-exec), and closes everything else.
///
/// Whatever else in this process owns a descriptor must not be used or dropped afterwards.
pub fn arrange_descriptors(stdio: Stdio, keep: OwnedFd) -> io::Result<OwnedFd> {
    let sources = match stdio {
        Stdio::Pipes { stdin, stdout, stderr } => [stdin, stdout, stderr].map(OwnedFd::into_raw_fd),
        Stdio::Terminal(terminal) => [terminal.into_raw_fd(); 3],
    };
    // Copies above the targets first: a source may itself lie at one of them.
    let high = |fd: RawFd| dup_from(fd, 8);
    let sources = [high(sources[0])?, high(sources[1])?, high(sources[2])?];
    let keep = high(keep.into_raw_fd())?;
    for (target, source) in sources.into_iter().enumerate() {
        dup_to(source, target as RawFd, 0)?;
    }
    dup_to(keep, 3, libc::O_CLOEXEC)?;
    close_from(4)?;
    // SAFETY: descriptor 3 was made just above; what lay there before has no user left, as the
    // caller promises.
    Ok(unsafe { OwnedFd::from_raw_fd(3) })
}

/// Leaves nothing open but the null device, which is at 1. Nobody in this process may own a descriptor.
pub fn keep_no_descriptor() -> io::Result<()> {
    dup_to(1, 0, 0)?;
    close_from(3)
}

fn dup_from(fd: RawFd, lowest: RawFd) -> io::Result<RawFd> {
    // SAFETY: plain numbers; makes a new descriptor or fails.
    check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, lowest) })
}

fn dup_to(fd: RawFd, target: RawFd, flags: i32) -> io::Result<RawFd> {
    // SAFETY: plain numbers. The target's old owner in this process is never used again: the
    // process is on its way to exec, or to a server that uses stdio only.
    check(unsafe { libc::dup3(fd, target, flags) })
}

/// Closes every descriptor from `first` on (close_range(2), Linux 5.9).
///
/// Nobody in this process may own one of them: for the start of a process, or its way to exec.
pub fn close_from(first: u32) -> io::Result<()> {
    close_range(first, 0)
}

/// Marks every descriptor from `first` on to be closed by exec (close_range(2), Linux 5.11).
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    close_range(first, libc::CLOSE_RANGE_CLOEXEC)
}

fn close_range(first: u32, flags: u32) -> io::Result<()> {
    // libc's function came with glibc 2.34, and the program runs on older ones.
    // SAFETY: plain numbers; what is closed nobody in this process uses after this, as for dup_to.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn check(rc: i32) -> io::Result<i32> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(rc) }
}

fn reset_signals() -> io::Result<()> {
    // The kernel's struct sigaction: no handler, flags, restorer or mask. libc's own call refuses the two
    // signals that it keeps for itself, and they may have been inherited as ignored.
    let default = [0u64; 4];
    let mask_size = size_of::<u64>();
    for signal in 1..=libc::SIGRTMAX() {
        let none = std::ptr::null_mut::<u64>();
        // SAFETY: the struct is live for the call, as large as the kernel reads, and names no handler
        // of ours. It is refused for KILL and STOP, which is as well.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, &default, none, mask_size) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Becomes root of group root and no other, whatever the container's runtime gave.
pub fn become_root() -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[gid])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// Executes `program` with exactly these arguments and `NAME=value` strings; returns only to fail.
pub fn exec(program: &CString, argv: &[CString], envp: &[CString]) -> io::Error {
    match nix::unistd::execve(program, argv, envp) {
        Err(errno) => errno.into(),
        Ok(never) => match never {},
    }
}

/// Leaves a forked child without running what the parent registered for its own exit.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; no destructor is expected to run.
    unsafe { libc::_exit(code) }
}
