//! What a long-running service sets for itself alone: more open files, and files for its owner alone.
//! Its children get what it was started with. Called by `cli` and `launch`.

use std::io;
use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::stat::{Mode, umask};

/// What the process was started with.
#[derive(Debug, Clone, Copy)]
pub struct Before {
    files: (rlim_t, rlim_t),
    umask: Mode,
}

static BEFORE: OnceLock<Before> = OnceLock::new();

/// Raises the soft limit of open files to the hard one, and lets new files be the owner's alone. For
/// the whole process: called once, before it has other threads that make files.
pub fn become_service() -> io::Result<()> {
    let files = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, files.1, files.1)?;
    let umask = umask(Mode::from_bits_truncate(0o077));
    // A second call has nothing to add: what counts is the state before the first.
    let _ = BEFORE.set(Before { files, umask });
    Ok(())
}

/// How many files this process may have open.
pub fn open_files() -> io::Result<u64> {
    Ok(getrlimit(Resource::RLIMIT_NOFILE)?.0)
}

/// What children are to have again, if this process has become a service.
pub(super) fn before() -> Option<Before> {
    BEFORE.get().copied()
}

impl Before {
    /// Called between fork and exec: two system calls, no lock, no memory.
    pub(super) fn restore(self) -> io::Result<()> {
        umask(self.umask);
        Ok(setrlimit(Resource::RLIMIT_NOFILE, self.files.0, self.files.1)?)
    }
}
