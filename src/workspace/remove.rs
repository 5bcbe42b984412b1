//! Removes trees without ever entering a mount.

use std::io;
use std::path::{Path, PathBuf};

use super::Error;
use linux::mountinfo;

/// Removes a directory with all in it; nothing happens if it is not there.
///
/// Links are removed, not followed. A mount in the tree is an error before anything is removed: it
/// may be the host's `/dev`.
pub(super) fn tree(path: &Path) -> Result<(), Error> {
    match path.symlink_metadata() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::io("read", path, source)),
    }
    let mounts =
        mountinfo::at_or_below(path).map_err(|source| Error::io("list mounts in", path, source))?;
    if let Some(mount) = mounts.first() {
        return Err(Error::MountedInside { path: path.into(), mount: mount.point.clone() });
    }
    std::fs::remove_dir_all(path).map_err(|source| Error::io("remove", path, source))
}

/// Removes all that lies in a directory but the files of `kept`; nothing happens if it is not there.
pub(super) fn all_but(directory: &Path, kept: &[PathBuf]) -> Result<(), Error> {
    let failed = |source| Error::io("list", directory, source);
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed(source)),
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        match path.symlink_metadata() {
            _ if kept.contains(&path) => {}
            Ok(metadata) if metadata.is_dir() => tree(&path)?,
            _ => file(&path)?,
        }
    }
    Ok(())
}

/// Removes a file; nothing happens if it is not there.
pub(super) fn file(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", path, error))
        }
        _ => Ok(()),
    }
}
