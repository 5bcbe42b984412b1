//! Opening paths of an image as a process chrooted into it would: no symlink and no `..` leads out.
//!
//! Used wherever the agent, which is not in the jail, reads what users could have written.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

/// The directory `path` itself, as a handle that outlives renames and mounts over it.
pub fn directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Anything at `path`, links followed, as a handle for mounting; not opened for reading.
pub fn handle(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// Opens `path` with `root` as `/`: absolute links and `..` stay inside (openat2(2), Linux 5.6).
pub fn open_in_root(root: impl AsFd, path: &Path, flags: OFlag) -> io::Result<File> {
    // Also with RESOLVE_IN_ROOT an empty path is an error, and "/" alone is the root.
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    // EAGAIN: something was renamed on the way and the kernel could not be sure; it asks for a retry.
    for _ in 0..8 {
        match openat2(root.as_fd(), path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return Ok(File::from(other?)),
        }
    }
    Err(io::Error::from(Errno::EAGAIN))
}

/// Whether `path`, links followed, leads out of `root`; a path that leads to nothing does not.
pub fn leads_outside(root: impl AsFd, path: &Path) -> io::Result<bool> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(root.as_fd(), path, how) {
        Ok(_) => Ok(false),
        Err(Errno::EXDEV) => Ok(true),
        // A circle of links leads nowhere.
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Reads a regular file of at most `limit` bytes inside `root`.
///
/// Opened without blocking and checked afterwards: a FIFO in its place must not hang the agent.
pub fn read_in_root(root: impl AsFd, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    read_regular(open_in_root(root, path, flags)?, limit)
}

/// Reads what was opened without blocking, if it is a regular file of at most `limit` bytes.
pub(super) fn read_regular(file: File, limit: u64) -> io::Result<Vec<u8>> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("above {limit} bytes")));
    }
    Ok(content)
}

/// Opens a regular file of any size inside `root` for reading.
///
/// It is looked at before it is opened: opening a device node or a FIFO of an image could act on the
/// host or wait for ever. What is not a regular file is `ErrorKind::InvalidInput`.
pub fn open_regular_in_root(root: impl AsFd, path: &Path) -> io::Result<File> {
    let found = open_in_root(root, path, OFlag::O_PATH)?;
    if !found.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // The same inode again, for reading: no second walk, so nothing can be swapped in between.
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_and_dots_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        std::fs::write(root.join("secret"), "inside").unwrap();
        symlink("../../../../secret", root.join("etc/up")).unwrap();
        symlink("/secret", root.join("etc/absolute")).unwrap();
        let fd = directory(&root).unwrap();
        for path in ["etc/up", "etc/absolute", "../secret", "/../secret"] {
            let file = open_regular_in_root(&fd, Path::new(path)).unwrap();
            assert_eq!(io::read_to_string(file).unwrap(), "inside", "{path}");
            assert_eq!(read_in_root(&fd, Path::new(path), 10).unwrap(), b"inside", "{path}");
        }
    }

    #[test]
    fn neither_fifos_nor_large_files_hold_us_up() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
        std::fs::write(dir.path().join("large"), [0; 11]).unwrap();
        let fd = directory(dir.path()).unwrap();
        assert!(read_in_root(&fd, Path::new("fifo"), 10).is_err());
        let error = open_regular_in_root(&fd, Path::new("fifo")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(read_in_root(&fd, Path::new("large"), 10).is_err());
    }
}
