//! Signal files (contract section 3) and the `/tmp` in which a jailed user creates them.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::super::Error;
use crate::contract::files::{BUILD_FAILED, COMPLETE, EXITING, FAILED, POD_ERROR, READY};
use linux::Errno;
use linux::dir::{Dir, Time};
use linux::stat::FileKind;

const TMP: &str = "/tmp";

/// What `/tmp` of the image was like before the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tmp {
    /// We made it: the image has none.
    made: bool,
    time: Time,
    /// Hash of the names in it.
    names: Vec<u8>,
}

/// Removes signal files that an earlier session or an image packed by others brought along. The
/// image root need not be there yet.
pub fn remove_stale_signals(parent: &Path, root: &Path) -> Result<(), Error> {
    for name in [COMPLETE, FAILED, BUILD_FAILED, READY, EXITING, POD_ERROR] {
        let path = parent.join(name);
        if path.symlink_metadata().is_ok_and(|metadata| !metadata.is_dir()) {
            tracing::warn!(path = %path.display(), "removing a stale signal file");
            super::super::remove::file(&path)?;
        }
    }
    let remove = || {
        if !root.is_dir() {
            return Ok(());
        }
        let Some(tmp) = open_tmp(&Dir::open(root)?)? else { return Ok(()) };
        let time = tmp.time()?;
        if remove_signals(&tmp)? {
            tracing::warn!("removed a stale signal file from /tmp of the image root");
            tmp.set_own_time(time)?;
        }
        Ok(())
    };
    remove().map_err(|source| Error::io("clean", root.join("tmp"), source))
}

/// Remembers what `/tmp` is like, and makes it if there is none: without it a jailed user could not
/// signal the end.
pub(super) fn prepare(root: &Dir) -> io::Result<Option<Tmp>> {
    let made = if root.find("tmp")?.is_none() {
        let root_time = root.time()?;
        root.make_dir("tmp", 0o1777)?;
        root.set_own_time(root_time)?;
        tracing::info!("the image has no /tmp; created one for the session");
        true
    } else {
        false
    };
    let Some(tmp) = open_tmp(root)? else {
        tracing::warn!(
            "/tmp of the image is not a directory inside it: jailed users cannot \
                        create the signal files"
        );
        return Ok(None);
    };
    Ok(Some(Tmp { made, time: tmp.time()?, names: hash_of_names(&tmp)? }))
}

/// Removes the signal files, and `/tmp` if it is ours and empty.
///
/// If `/tmp` has the same names as before the session, it gets its time back; else the time stays
/// as it was before the signal was removed, when the user last changed something in it.
pub(super) fn take_out(root: &Dir, before: Option<&Tmp>) -> io::Result<()> {
    let Some(tmp) = open_tmp(root)? else { return Ok(()) };
    let now = tmp.time()?;
    remove_signals(&tmp)?;
    let Some(before) = before else { return tmp.set_own_time(now) };
    if before.made && tmp.names()?.is_empty() {
        let root_time = root.time()?;
        root.remove_dir(Path::new("tmp"))?;
        return root.set_own_time(root_time);
    }
    let unchanged = hash_of_names(&tmp)? == before.names;
    tmp.set_own_time(if unchanged { before.time } else { now })
}

/// `None` if there is no such directory inside the root.
fn open_tmp(root: &Dir) -> io::Result<Option<Dir>> {
    match root.inside(Path::new(TMP)) {
        Ok(tmp) => Ok(Some(tmp)),
        Err(error) => match linux::errno_of(&error) {
            Some(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => Ok(None),
            _ => Err(error),
        },
    }
}

/// True if there were any.
fn remove_signals(tmp: &Dir) -> io::Result<bool> {
    let mut removed = false;
    for name in [COMPLETE, FAILED].map(Path::new) {
        match tmp.find(name)? {
            Some(stat) if FileKind::of(stat.st_mode) != FileKind::Directory => {
                tmp.remove(name)?;
                removed = true;
            }
            _ => {}
        }
    }
    Ok(removed)
}

fn hash_of_names(tmp: &Dir) -> io::Result<Vec<u8>> {
    let mut hash = Sha256::new();
    for name in tmp.names()?.iter() {
        hash.update(name.as_encoded_bytes());
        hash.update([0]);
    }
    Ok(hash.finalize().to_vec())
}
