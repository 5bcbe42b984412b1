//! Mounting and unmounting, with guards that report how unmounting went.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, mount, umount2};

/// Flags of mount(2).
pub use nix::mount::MsFlags;

use super::mountinfo::{self, Mount};

/// What could not be mounted, unmounted or listed.
#[allow(missing_docs, reason = "the messages say what each means")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot mount {fs_type} on {point}")]
    Mount { fs_type: String, point: PathBuf, source: Errno },
    #[error("cannot unmount {point}")]
    Unmount { point: PathBuf, source: Errno },
    #[error("cannot list the mounts below {path}")]
    List { path: PathBuf, source: io::Error },
}

impl Error {
    /// True if somebody still uses what should have been unmounted, or is to be mounted.
    pub fn is_busy(&self) -> bool {
        matches!(
            self,
            Self::Unmount { source: Errno::EBUSY, .. } | Self::Mount { source: Errno::EBUSY, .. }
        )
    }
}

/// A mount that this process made and that it must undo.
#[derive(Debug)]
pub struct Mounted {
    point: PathBuf,
    open: bool,
}

impl Mounted {
    /// Mounts `source` on `point`; `data` are the filesystem's own options.
    pub fn new(
        fs_type: &str,
        source: &Path,
        point: &Path,
        flags: MsFlags,
        data: Option<&str>,
    ) -> Result<Self, Error> {
        mount(Some(source), point, Some(fs_type), flags, data).map_err(|source| Error::Mount {
            fs_type: fs_type.into(),
            point: point.into(),
            source,
        })?;
        Ok(Self { point: point.into(), open: true })
    }

    /// Where it is mounted.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Unmounts. On an error the mount is still there and this can be called again.
    pub fn close(&mut self) -> Result<(), Error> {
        if self.open {
            unmount(&self.point)?;
            self.open = false;
        }
        Ok(())
    }

    /// Leaves the mount to somebody else: neither `close` nor drop will undo it.
    pub fn forget(mut self) {
        self.open = false;
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(error = %crate::error::chain(&error), "cannot unmount, the mount stays");
        }
    }
}

/// A child that is between fork and exec holds copies of all our descriptors, and a process that
/// was just killed its own, for a moment: this long "busy" may mean nothing.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(10);

/// Unmounts what is on `point`, without following a link there.
#[allow(
    clippy::disallowed_methods,
    reason = "for half a second at most, in a call that blocks anyway"
)]
pub fn unmount(point: &Path) -> Result<(), Error> {
    let start = Instant::now();
    loop {
        match umount2(point, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => return Ok(()),
            Err(Errno::EBUSY) if start.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            Err(source) => return Err(Error::Unmount { point: point.into(), source }),
        }
    }
}

/// Takes a mount, with all that is mounted in it, out of this namespace; whoever uses it keeps it until it
/// ends.
pub fn detach(point: &Path) -> io::Result<()> {
    Ok(umount2(point, MntFlags::MNT_DETACH)?)
}

/// What [`unmount_below`] did.
#[derive(Debug, Default)]
pub struct Undone {
    /// Mounts that are gone.
    pub unmounted: Vec<Mount>,
    /// Busy mounts that were only detached: whoever uses them keeps them until it ends.
    pub detached: Vec<Mount>,
}

/// Unmounts everything below `path`, deepest and newest first; what is on `path` itself stays.
///
/// A mount that is still busy is detached, which is logged, since packaging must not walk into it.
pub fn unmount_below(path: &Path) -> Result<Undone, Error> {
    let list = |source| Error::List { path: path.into(), source };
    let mounts = mountinfo::below(path).map_err(list)?;
    undo(mounts)
}

/// Unmounts what is on `path` and below it; how many that were. One that is busy is an error and stays,
/// with what lies under it.
pub fn unmount_all_at_or_below(path: &Path) -> Result<usize, Error> {
    let list = |source| Error::List { path: path.into(), source };
    let mounts = mountinfo::at_or_below(path).map_err(list)?;
    mounts.iter().rev().try_for_each(|mount| unmount(&mount.point))?;
    Ok(mounts.len())
}

/// The kernel lists a mount after everything it lies on, so the reverse order is deepest first.
fn undo(mounts: Vec<Mount>) -> Result<Undone, Error> {
    let mut undone = Undone::default();
    for mount in mounts.into_iter().rev() {
        match unmount(&mount.point) {
            Ok(()) => undone.unmounted.push(mount),
            Err(error) if error.is_busy() => {
                tracing::warn!(
                    mount = %mount.point.display(),
                    fs_type = %mount.fs_type,
                    "mount is busy, detaching it: processes that use it keep it until they end"
                );
                umount2(&mount.point, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
                    .map_err(|source| Error::Unmount { point: mount.point.clone(), source })?;
                undone.detached.push(mount);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(undone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tmpfs(point: &Path) -> Mounted {
        std::fs::create_dir_all(point).unwrap();
        Mounted::new("tmpfs", Path::new("tmpfs"), point, MsFlags::empty(), None)
            .expect("this test needs CAP_SYS_ADMIN")
    }

    #[test]
    fn close_unmounts_once_and_drop_has_nothing_left_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let mut mounted = tmpfs(&dir.path().join("m"));
        assert_eq!(mountinfo::below(dir.path()).unwrap().len(), 1);
        mounted.close().unwrap();
        mounted.close().unwrap();
        assert!(mountinfo::below(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn a_busy_mount_is_reported_and_can_be_closed_later() {
        let dir = tempfile::tempdir().unwrap();
        let mut mounted = tmpfs(&dir.path().join("m"));
        let file = std::fs::File::create(dir.path().join("m/open")).unwrap();
        assert!(mounted.close().unwrap_err().is_busy());
        drop(file);
        mounted.close().unwrap();
    }

    #[test]
    fn nested_and_stacked_mounts_are_undone_from_the_top() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("ro ot");
        let points = ["", "a b", "a b/deep", "a b/deep"];
        points.iter().for_each(|point| tmpfs(&root.join(point)).forget());
        let undone = unmount_below(&root).unwrap();
        assert_eq!(undone.unmounted.len(), 3);
        assert!(undone.detached.is_empty());
        assert_eq!(mountinfo::at_or_below(&root).unwrap().len(), 1, "the root itself stays");
        unmount_all_at_or_below(&root).unwrap();
        assert!(mountinfo::at_or_below(&root).unwrap().is_empty());
    }

    #[test]
    fn a_busy_mount_below_is_detached_and_named() {
        let dir = tempfile::tempdir().unwrap();
        tmpfs(&dir.path().join("m")).forget();
        let file = std::fs::File::create(dir.path().join("m/open")).unwrap();
        let undone = unmount_below(dir.path()).unwrap();
        assert_eq!(undone.detached.len(), 1);
        assert!(mountinfo::below(dir.path()).unwrap().is_empty());
        drop(file);
    }
}
