//! Waits until no process uses a mount of an earlier run: the sessions of a killed agent take a
//! while to end, and every mount namespace that was created meanwhile has a copy of the mounts.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::{Error, Layout};
use linux::mount;
use linux::process::{self, Process};

/// How long a job waits before it ends for that.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 60 });

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How many holders an error names.
const NAMED: usize = 10;

/// Does `act` until it is not busy any more, as long as there is patience with that.
#[allow(clippy::disallowed_methods, reason = "in a call that blocks anyway")]
pub(super) fn until_free<T>(
    layout: &Layout,
    path: &Path,
    cancel: &CancellationToken,
    mut act: impl FnMut() -> Result<T, mount::Error>,
) -> Result<T, Failed> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = FIRST_PAUSE;
    let mut logged = false;
    loop {
        match act() {
            Err(error) if error.is_busy() => {
                if cancel.is_cancelled() || Instant::now() >= deadline {
                    let users = holders(layout);
                    return Err(Failed::StillInUse(Error::StillInUse { path: path.into(), users }));
                }
                // What is over at once is not worth a line.
                if !logged && pause >= LONGEST_PAUSE {
                    tracing::warn!(
                        path = %path.display(), users = holders(layout),
                        "still in use by an earlier run: waiting up to {} s",
                        PATIENCE.as_secs()
                    );
                    logged = true;
                }
                std::thread::sleep(pause);
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
            Err(error) => return Err(Failed::Otherwise(error)),
            Ok(done) => return Ok(done),
        }
    }
}

/// Why it was given up.
pub(super) enum Failed {
    StillInUse(Error),
    Otherwise(mount::Error),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        match failed {
            Failed::StillInUse(error) => error,
            Failed::Otherwise(error) => Error::Mount(error),
        }
    }
}

/// Who works in the image root, or has the overlay mounted in a mount namespace of its own.
fn holders(layout: &Layout) -> String {
    let mut names: Vec<String> =
        process::users_of(&layout.root()).iter().map(ToString::to_string).collect();
    let mut known = HashSet::new();
    for process in process::all().into_iter().filter(Process::runs) {
        // One of each namespace is enough; this process's own is looked at by the caller.
        if let Some(namespace) = process.mount_namespace().filter(|_| has_mounted(&process, layout))
            && known.insert(namespace)
            && process.pid != std::process::id() as i32
        {
            names.push(format!("{process} has it mounted in another mount namespace"));
        }
    }
    names.truncate(NAMED);
    if names.is_empty() {
        return "no visible process; check the other containers of this machine".into();
    }
    names.join(", ")
}

fn has_mounted(process: &Process, layout: &Layout) -> bool {
    let upper = format!("upperdir={}", layout.upper().display());
    process.mounts().iter().any(|mount| {
        mount.fs_type == "overlay" && (mount.has_option(&upper) || mount.point == layout.root())
    })
}
