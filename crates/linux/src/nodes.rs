//! Making and removing entries of one directory of an image, held open: no path is walked twice.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{self, FileStat, Mode, SFlag};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// An open directory.
#[derive(Debug)]
pub struct Directory(File);

/// Access and modification time of a directory, to the nanosecond.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    access: TimeSpec,
    modification: TimeSpec,
}

/// Equal if nothing was added or removed between them; looking at it changes the access time only.
impl PartialEq for Stamp {
    fn eq(&self, other: &Stamp) -> bool {
        self.modification == other.modification
    }
}

const FLAGS: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

impl Directory {
    pub fn open(path: &Path) -> io::Result<Directory> {
        Ok(Directory(open(path, FLAGS, Mode::empty())?.into()))
    }

    /// A directory below, links followed as if this one were `/`.
    pub fn below(&self, path: &Path) -> io::Result<Directory> {
        let how = OpenHow::new().flags(FLAGS).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        Ok(Directory(openat2(&self.0, path, how)?.into()))
    }

    pub fn stamp(&self) -> io::Result<Stamp> {
        let found = stat::fstat(self.0.as_fd())?;
        Ok(Stamp {
            access: TimeSpec::new(found.st_atime, found.st_atime_nsec),
            modification: TimeSpec::new(found.st_mtime, found.st_mtime_nsec),
        })
    }

    pub fn restore(&self, stamp: &Stamp) -> io::Result<()> {
        Ok(stat::futimens(&self.0, &stamp.access, &stamp.modification)?)
    }

    /// Something of that name is there, a dangling link too.
    pub fn has(&self, name: &Path) -> io::Result<bool> {
        match stat::fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// `false` if there is something of that name (a link, too, dangling or not).
    pub fn make_directory(&self, name: &Path) -> io::Result<bool> {
        existing_is_fine(stat::mkdirat(&self.0, name, Mode::from_bits_truncate(0o755)))
    }

    /// A character device that everybody may use; `false` if there is something of that name.
    pub fn make_node(&self, name: &Path, number: u64) -> io::Result<bool> {
        let mode = Mode::from_bits_truncate(0o666);
        let made = existing_is_fine(stat::mknodat(&self.0, name, SFlag::S_IFCHR, mode, number))?;
        if made {
            // The umask took from it.
            stat::fchmodat(&self.0, name, mode, stat::FchmodatFlags::FollowSymlink)?;
        }
        Ok(made)
    }

    /// Only if it is empty. One that is gone already is no error.
    pub fn remove_directory(&self, name: &Path) -> io::Result<()> {
        match unlinkat(&self.0, name, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Only if it still is that device. One that is gone already is no error.
    pub fn remove_node(&self, name: &Path, number: u64) -> io::Result<()> {
        let is_it = |found: FileStat| {
            found.st_mode & libc::S_IFMT == libc::S_IFCHR && found.st_rdev == number
        };
        match stat::fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) if is_it(found) => Ok(unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir)?),
            Ok(_) => Err(io::Error::from(io::ErrorKind::AlreadyExists)),
            Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn existing_is_fine(result: nix::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
