//! Waiting for children by SIGCHLD, as a single-threaded process does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Blocks every signal for this thread and what it starts.
pub fn block_all() -> io::Result<()> {
    Ok(SigSet::all().thread_block()?)
}

fn child_signal() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set
}

/// A descriptor that is readable when a child has ended; for polling. SIGCHLD must be blocked.
#[derive(Debug)]
pub struct ChildEvents(SignalFd);

impl ChildEvents {
    /// Opens it; close-on-exec and never waiting.
    pub fn open() -> io::Result<ChildEvents> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(ChildEvents(SignalFd::with_flags(&child_signal(), flags)?))
    }

    /// Takes all that has come, before the children are looked at.
    pub fn clear(&self) -> io::Result<()> {
        while self.0.read_signal()?.is_some() {}
        Ok(())
    }
}

impl AsFd for ChildEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// SIGCHLD, blocked: none is lost between a look at the children and waiting for one to end.
#[derive(Debug)]
pub struct BlockedChildSignal(SigSet);

impl BlockedChildSignal {
    /// Blocks it for this thread.
    pub fn block() -> io::Result<BlockedChildSignal> {
        let set = child_signal();
        set.thread_block()?;
        Ok(BlockedChildSignal(set))
    }

    /// Waits for the next one.
    pub fn wait(&self) -> io::Result<()> {
        self.0.wait()?;
        Ok(())
    }
}
