//! What a directory entry has besides its content: owner, mode, time, extended attributes.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::dir::{Dir, Time};
use crate::xattrs::{self, Xattrs};

/// Owner, mode, modification time and extended attributes of a file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Number of the owner.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
    /// Permission bits with set-id and sticky; meaningless for links.
    pub mode: u32,
    /// `None`: whatever it becomes.
    pub time: Option<Time>,
    /// Names and values, as bytes.
    pub xattrs: Xattrs,
}

impl Attributes {
    /// Of a new file of root's.
    pub fn root_owned(mode: u32) -> Self {
        Self { uid: 0, gid: 0, mode, time: None, xattrs: Vec::new() }
    }

    /// Those of `name` itself.
    pub fn of(dir: &Dir, name: &Path) -> io::Result<Self> {
        let stat = dir.stat(name)?;
        Ok(Self {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            time: Some((stat.st_mtime, stat.st_mtime_nsec)),
            xattrs: sorted_xattrs(&dir.path_of(name))?,
        })
    }

    /// Gives them to `name` itself; attributes that `name` has and `self` lacks stay.
    ///
    /// In this order: a change of owner clears set-id bits and capabilities, a change of anything
    /// but the time may change the time.
    pub fn apply(&self, dir: &Dir, name: &Path) -> io::Result<()> {
        dir.set_owner_mode(name, self.uid, self.gid, self.mode)?;
        let path = dir.path_of(name);
        for (key, value) in &self.xattrs {
            xattrs::ensure(&path, key, value)?;
        }
        self.time.map_or(Ok(()), |time| dir.set_time(name, time))
    }
}

/// Those of `path` itself, sorted.
fn sorted_xattrs(path: &Path) -> io::Result<Xattrs> {
    let mut found = xattrs::of(path)?;
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn files_and_links_get_them_back() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("file"), "x").unwrap();
        symlink("/nowhere", temp.path().join("link")).unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let wanted = Attributes {
            uid: 12,
            gid: 34,
            mode: 0o4751,
            time: Some((1_000_000_000, 5)),
            xattrs: vec![(b"trusted.a".into(), b"1".into())],
        };
        for name in ["file", "link"] {
            wanted.apply(&dir, Path::new(name)).unwrap();
            let found = Attributes::of(&dir, Path::new(name)).unwrap();
            assert_eq!((found.uid, found.gid, found.time), (12, 34, wanted.time), "{name}");
            assert_eq!(found.xattrs, wanted.xattrs, "{name}");
        }
        assert_eq!(temp.path().join("file").metadata().unwrap().mode() & 0o7777, 0o4751);
    }
}
