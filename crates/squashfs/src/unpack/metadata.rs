//! Owner, attributes, mode and times of what was made.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::format::{Inode, Kind};
use crate::read::{self, Image};
use linux::Errno;
use linux::dir::Dir;
use linux::xattrs::Xattrs;

/// An inode's metadata, ready to be set.
#[derive(Debug)]
pub(super) struct Metadata {
    owner: (u32, u32),
    /// Symlinks have none.
    mode: Option<u16>,
    mtime: u32,
    xattrs: Xattrs,
}

/// Counts what could not be set.
pub(super) struct Skipped {
    xattrs: AtomicU64,
    root: bool,
}

impl Skipped {
    pub(super) fn new() -> Self {
        Self { xattrs: AtomicU64::new(0), root: linux::capability::is_root() }
    }

    /// Attributes that were left out, and whether all owners were.
    pub(super) fn totals(&self) -> (u64, bool) {
        (self.xattrs.load(Ordering::Relaxed), !self.root)
    }
}

impl Metadata {
    pub(super) fn of(image: &Image, inode: &Inode) -> Result<Self, read::Error> {
        Ok(Self {
            owner: image.owner(inode)?,
            mode: (!matches!(inode.kind, Kind::Symlink(_))).then_some(inode.mode),
            mtime: inode.mtime,
            xattrs: image.xattrs(inode)?,
        })
    }

    /// Sets all on `name`: attributes after the owner, whose change drops `security.capability`, and
    /// the mode after both, which drop setuid. The error tells what could not be done.
    pub(super) fn apply(
        &self,
        dir: &Dir,
        name: &[u8],
        skipped: &Skipped,
    ) -> Result<(), (&'static str, io::Error)> {
        if skipped.root {
            let (uid, gid) = self.owner;
            dir.set_owner(name, uid, gid).map_err(|e| ("set the owner of", e))?;
        }
        for (attribute, value) in &self.xattrs {
            if let Err(error) = dir.set_xattr(name, attribute, value) {
                skip(attribute, name, &error, skipped)
                    .map_err(|()| ("set attributes of", error))?;
            }
        }
        if let Some(mode) = self.mode {
            dir.set_mode(name, mode.into()).map_err(|e| ("set the mode of", e))?;
        }
        dir.set_times(name, (self.mtime.into(), 0)).map_err(|e| ("set the times of", e))
    }
}

/// Attributes that this process or file system cannot set are counted and, the first time, told.
fn skip(attribute: &[u8], name: &[u8], error: &io::Error, skipped: &Skipped) -> Result<(), ()> {
    if !matches!(linux::errno_of(error), Some(Errno::EPERM | Errno::EOPNOTSUPP | Errno::EACCES)) {
        return Err(());
    }
    if skipped.xattrs.fetch_add(1, Ordering::Relaxed) == 0 {
        tracing::warn!(
            attribute = %attribute.escape_ascii(),
            name = %name.escape_ascii(),
            %error,
            "cannot set an extended attribute here; skipping all attributes of this class"
        );
    }
    Ok(())
}
