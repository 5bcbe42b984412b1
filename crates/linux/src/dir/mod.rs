//! Directories by handle instead of by path: what is in them is read, made and replaced without following
//! links, however the tree changes meanwhile.
//!
//! A *name* is one entry of the directory. Methods that take a path say how links in it are followed:
//! `descend` follows none; `inside` and its like take this directory as `/`, as a process would that is
//! chrooted into it.

mod attributes;
mod make;
mod names;
mod put;
mod resolve;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{Mode, fstat, fstatat};

use crate::stat::Stat;

pub use attributes::{Time, Times};
pub use names::{Name, Names};

/// An open directory (`O_PATH`): it can be looked into, but reading it is left to [`Dir::names`].
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl Dir {
    /// The directory `path`, links followed as the calling process sees them.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(open(path, flags, Mode::empty())?))
    }

    /// The directory `name` in this one.
    pub fn child(&self, name: &(impl Name + ?Sized)) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(Self(openat(&self.0, name.as_name(), flags, Mode::empty())?))
    }

    /// The directory at a relative path, one component at a time: a link on the way is an error.
    pub fn descend(&self, path: &[u8]) -> io::Result<Self> {
        let mut dir = Self(self.0.try_clone()?);
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            dir = dir.child(name)?;
        }
        Ok(dir)
    }

    /// The names in this directory in byte order, without `.` and `..`.
    pub fn names(&self) -> io::Result<Names> {
        Names::in_directory(&self.0)
    }

    /// What `name` itself is.
    pub fn stat(&self, name: &(impl Name + ?Sized)) -> io::Result<Stat> {
        Ok(fstatat(&self.0, name.as_name(), AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// What `name` itself is; `None` if there is no such entry.
    pub fn find(&self, name: &(impl Name + ?Sized)) -> io::Result<Option<Stat>> {
        match fstatat(&self.0, name.as_name(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// What this directory itself is.
    pub fn stat_self(&self) -> io::Result<Stat> {
        Ok(fstat(&self.0)?)
    }

    /// Where the symbolic link `name` points.
    pub fn read_link(&self, name: &(impl Name + ?Sized)) -> io::Result<OsString> {
        Ok(readlinkat(&self.0, name.as_name())?)
    }

    /// Opens the file `name` for reading, its access time left alone where that is allowed.
    pub fn open_file(&self, name: &(impl Name + ?Sized)) -> io::Result<File> {
        // Not blocking: something else may have taken the file's place, a fifo for one.
        let flags = OFlag::O_RDONLY
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY
            | OFlag::O_CLOEXEC;
        let open = |flags| openat(&self.0, name.as_name(), flags, Mode::empty());
        match open(flags | OFlag::O_NOATIME) {
            // Somebody else's file.
            Err(Errno::EPERM) => Ok(open(flags)?.into()),
            opened => Ok(opened?.into()),
        }
    }

    /// The content of the regular file `name`, which may have `limit` bytes.
    pub fn read(&self, name: &(impl Name + ?Sized), limit: u64) -> io::Result<Vec<u8>> {
        read_regular(self.open_file(name)?, limit)
    }

    /// A path to `name` for calls that take no directory handle. Valid while `self` lives.
    pub fn path_of(&self, name: &(impl Name + ?Sized)) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(name.as_name())
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads what was opened without blocking, if it is a regular file of at most `limit` bytes.
fn read_regular(file: File, limit: u64) -> io::Result<Vec<u8>> {
    if !file.metadata()?.is_file() {
        return Err(no_regular_file());
    }
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("above {limit} bytes")));
    }
    Ok(content)
}

fn no_regular_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_is_followed_below() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("real/inner")).unwrap();
        symlink("real", temp.path().join("link")).unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        dir.child("real").unwrap().child(b"inner").unwrap();
        dir.descend(b"real//inner").unwrap();
        assert_eq!(dir.child("link").unwrap_err().kind(), io::ErrorKind::NotADirectory);
        assert!(dir.descend(b"link/inner").is_err());
        assert!(dir.open_file("link").is_err());
        assert_eq!(dir.read_link("link").unwrap(), "real");
        assert!(dir.find("nothing").unwrap().is_none() && dir.stat("nothing").is_err());
    }

    #[test]
    fn a_fifo_is_no_file_to_read() {
        let temp = tempfile::tempdir().unwrap();
        let fifo = temp.path().join("fifo");
        crate::testing::make_node(&fifo, crate::stat::FileKind::Fifo, 0o600, (0, 0)).unwrap();
        let error = Dir::open(temp.path()).unwrap().read("fifo", 10).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
