//! What stat(2) reports: which kind of file it is, and the numbers of a device.

use std::io;
use std::os::fd::AsFd;

use nix::sys::stat::{SFlag, fstat};

/// What stat(2) reports of a file.
pub type Stat = nix::sys::stat::FileStat;

/// What an open file is.
pub fn of_file(file: impl AsFd) -> io::Result<Stat> {
    Ok(fstat(file)?)
}

/// Which kind of file something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// Something that this program has no name for.
    Other,
}

impl FileKind {
    /// The kind in a `st_mode`.
    pub const fn of(mode: u32) -> FileKind {
        match mode & libc::S_IFMT {
            libc::S_IFREG => FileKind::Regular,
            libc::S_IFDIR => FileKind::Directory,
            libc::S_IFLNK => FileKind::Symlink,
            libc::S_IFBLK => FileKind::BlockDevice,
            libc::S_IFCHR => FileKind::CharDevice,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFSOCK => FileKind::Socket,
            _ => FileKind::Other,
        }
    }

    /// The bits by which mknod(2) knows it.
    pub(crate) fn bits(self) -> SFlag {
        match self {
            FileKind::Regular => SFlag::S_IFREG,
            FileKind::Directory => SFlag::S_IFDIR,
            FileKind::Symlink => SFlag::S_IFLNK,
            FileKind::BlockDevice => SFlag::S_IFBLK,
            FileKind::CharDevice => SFlag::S_IFCHR,
            FileKind::Fifo => SFlag::S_IFIFO,
            FileKind::Socket => SFlag::S_IFSOCK,
            FileKind::Other => SFlag::empty(),
        }
    }
}

/// The major and minor number of a device (`st_rdev`).
pub fn device_numbers(device: u64) -> (u32, u32) {
    (libc::major(device), libc::minor(device))
}

/// The device (`st_rdev`) of a major and a minor number.
pub fn device(major: u32, minor: u32) -> u64 {
    libc::makedev(major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn kinds_are_told_apart_by_their_mode() {
        let kind = |path: &str| FileKind::of(std::fs::symlink_metadata(path).unwrap().mode());
        assert_eq!(kind("/"), FileKind::Directory);
        assert_eq!(kind("/dev/null"), FileKind::CharDevice);
        assert_eq!(kind("/proc/self"), FileKind::Symlink);
        assert_eq!(kind("/proc/version"), FileKind::Regular);
        assert_eq!(FileKind::of(0o644), FileKind::Other);
    }

    #[test]
    fn large_device_numbers_survive() {
        assert_eq!(device_numbers(device(259, 0x12345)), (259, 0x12345));
    }
}
