//! A directory of an image by handle: its entries are read and replaced without following links.
//!
//! Called by `workspace`, which must never write to the container's own files because a link in the
//! image says so.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, UtimensatFlags, fchmod, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};

use super::entry::Attributes;
use super::openat::{directory, open_in_root, read_regular};

/// A modification time: seconds since 1970 and nanoseconds.
pub type Time = (i64, i64);

/// An open directory (`O_PATH`).
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl Dir {
    /// The directory `path`, links followed as the calling process sees them.
    pub fn open(path: &Path) -> io::Result<Self> {
        directory(path).map(Self)
    }

    /// The directory `path` with this one as `/`.
    pub fn inside(&self, path: &Path) -> io::Result<Self> {
        let file = open_in_root(&self.0, path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        Ok(Self(file.into()))
    }

    /// Like [`Dir::inside`], and makes what is missing with mode 0755.
    pub fn make_inside(&self, path: &Path) -> io::Result<Self> {
        let mut so_far = PathBuf::from("/");
        for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
            let parent = self.inside(&so_far)?;
            so_far.push(part);
            match self.inside(&so_far) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    parent.make_dir(part.as_ref(), 0o755)?;
                }
                other => drop(other?),
            }
        }
        self.inside(&so_far)
    }

    /// Makes the directory `name` with these permissions, whatever the umask.
    pub fn make_dir(&self, name: &Path, mode: u32) -> io::Result<()> {
        let mode = Mode::from_bits_truncate(mode);
        mkdirat(&self.0, name, mode)?;
        let made = openat(&self.0, name, read_dir_flags(), Mode::empty())?;
        Ok(fchmod(&made, mode)?)
    }

    /// The names in this directory, sorted.
    pub fn names(&self) -> io::Result<Vec<OsString>> {
        let entries = std::fs::read_dir(self.path_of(Path::new(".")))?;
        let mut names =
            entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    /// What `name` is, itself; `None` if there is no such entry.
    pub fn stat(&self, name: &Path) -> io::Result<Option<FileStat>> {
        match fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// What this directory itself is.
    pub fn stat_self(&self) -> io::Result<FileStat> {
        Ok(nix::sys::stat::fstat(&self.0)?)
    }

    /// Where the link `name` points.
    pub fn read_link(&self, name: &Path) -> io::Result<OsString> {
        Ok(readlinkat(&self.0, name)?)
    }

    /// Opens `name` without following it and without blocking.
    pub fn open_file(&self, name: &Path, flags: OFlag) -> io::Result<File> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        Ok(openat(&self.0, name, flags | OFlag::O_CLOEXEC, Mode::empty())?.into())
    }

    /// The content of the regular file `name`, which may have `limit` bytes.
    pub fn read(&self, name: &Path, limit: u64) -> io::Result<Vec<u8>> {
        read_regular(self.open_file(name, OFlag::O_RDONLY)?, limit)
    }

    /// Puts a regular file in the place of `name`, whatever was there (but not a directory).
    ///
    /// The old entry is there until the new one is complete.
    pub fn put_file(&self, name: &Path, content: &[u8], attributes: &Attributes) -> io::Result<()> {
        self.put(name, |temporary| {
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            let mut file: File =
                openat(&self.0, temporary, flags, Mode::from_bits_truncate(0o600))?.into();
            file.write_all(content)?;
            attributes.apply(self, temporary)
        })
    }

    /// Puts a symbolic link in the place of `name`.
    pub fn put_link(&self, name: &Path, target: &Path, attributes: &Attributes) -> io::Result<()> {
        self.put(name, |temporary| {
            symlinkat(target, &self.0, temporary)?;
            attributes.apply(self, temporary)
        })
    }

    fn put(&self, name: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
        let temporary = PathBuf::from(format!(".ims-job-agent-{}", uuid::Uuid::new_v4().simple()));
        let made =
            make(&temporary).and_then(|()| Ok(renameat(&self.0, &temporary, &self.0, name)?));
        if made.is_err() {
            let _ = self.remove(&temporary);
        }
        made
    }

    /// Removes `name`, which is not a directory; nothing happens if it is not there.
    pub fn remove(&self, name: &Path) -> io::Result<()> {
        match unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes the empty directory `name`.
    pub fn remove_dir(&self, name: &Path) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, UnlinkatFlags::RemoveDir)?)
    }

    /// Sets owner and mode of `name`, of which links are not followed and keep their mode.
    pub fn set_owner_mode(&self, name: &Path, uid: u32, gid: u32, mode: u32) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        fchownat(&self.0, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let stat = fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if stat.st_mode & libc::S_IFMT != libc::S_IFLNK {
            // The kernel's fchmodat has no flag for links, hence by descriptor path.
            let path = self.path_of(name);
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        }
        Ok(())
    }

    /// Sets the modification time of `name` itself; the access time stays.
    pub fn set_time(&self, name: &Path, time: Time) -> io::Result<()> {
        let keep = TimeSpec::UTIME_OMIT;
        let time = TimeSpec::new(time.0, time.1);
        Ok(utimensat(&self.0, name, &keep, &time, UtimensatFlags::NoFollowSymlink)?)
    }

    /// The modification time of this directory.
    pub fn time(&self) -> io::Result<Time> {
        let stat = self.stat_self()?;
        Ok((stat.st_mtime, stat.st_mtime_nsec))
    }

    /// Sets the modification time of this directory.
    pub fn set_own_time(&self, time: Time) -> io::Result<()> {
        self.set_time(Path::new("."), time)
    }

    /// A path to `name` for calls that take no directory handle. Valid while `self` lives.
    pub fn path_of(&self, name: &Path) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(name)
    }
}

fn read_dir_flags() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn directories_are_made_inside_whatever_links_say() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("real")).unwrap();
        symlink("/real", root.join("etc")).unwrap();
        Dir::open(&root).unwrap().make_inside(Path::new("/etc/cray/ca")).unwrap();
        assert_eq!(root.join("real/cray/ca").metadata().unwrap().mode() & 0o7777, 0o755);
    }

    #[test]
    fn a_file_replaces_a_link_instead_of_being_written_through_it() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("victim"), "untouched").unwrap();
        symlink("victim", temp.path().join("link")).unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        dir.put_file(Path::new("link"), b"new", &Attributes::root_owned(0o644)).unwrap();
        assert_eq!(std::fs::read(temp.path().join("victim")).unwrap(), b"untouched");
        assert_eq!(dir.read(Path::new("link"), 10).unwrap(), b"new");
        assert_eq!(dir.names().unwrap(), ["link", "victim"]);
    }

    #[test]
    fn a_failed_put_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("taken")).unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        dir.put_file(Path::new("taken"), b"", &Attributes::root_owned(0o644)).unwrap_err();
        assert_eq!(dir.names().unwrap(), ["taken"]);
    }
}
