//! Paths with an open directory as `/`: no symbolic link and no `..` leads out (openat2(2), Linux 5.6).
//!
//! For reading what users could have written from outside of their jail.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::{Dir, no_regular_file, read_regular};

impl Dir {
    /// Opens `path`: absolute links and `..` stay inside.
    pub fn open_inside(&self, path: &Path, flags: OFlag) -> io::Result<File> {
        // Also with RESOLVE_IN_ROOT an empty path is an error, and "/" alone is the root.
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        // EAGAIN: something was renamed on the way and the kernel could not be sure; it asks for a retry.
        for _ in 0..8 {
            match openat2(&self.0, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                opened => return Ok(opened?.into()),
            }
        }
        Err(Errno::EAGAIN.into())
    }

    /// The directory `path`.
    pub fn inside(&self, path: &Path) -> io::Result<Self> {
        let file = self.open_inside(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
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
                    parent.make_dir(part.as_os_str(), 0o755)?;
                }
                other => drop(other?),
            }
        }
        self.inside(&so_far)
    }

    /// Whether `path`, links followed, leads out of this directory; one that leads to nothing does not.
    pub fn leads_outside(&self, path: &Path) -> io::Result<bool> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        match openat2(&self.0, path, how) {
            Ok(_) => Ok(false),
            Err(Errno::EXDEV) => Ok(true),
            // A circle of links leads nowhere.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads the regular file `path` of at most `limit` bytes.
    ///
    /// Opened without blocking and checked afterwards: a FIFO in its place must not hang the agent.
    pub fn read_inside(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        read_regular(self.open_inside(path, flags)?, limit)
    }

    /// Opens the regular file `path` of any size for reading.
    ///
    /// It is looked at before it is opened: opening a device node or a FIFO of an image could act on the
    /// host or wait for ever. What is not a regular file is `ErrorKind::InvalidInput`.
    pub fn open_regular_inside(&self, path: &Path) -> io::Result<File> {
        let found = self.open_inside(path, OFlag::O_PATH)?;
        if !found.metadata()?.is_file() {
            return Err(no_regular_file());
        }
        // The same inode again, for reading: no second walk, so nothing can be swapped in between.
        File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn links_and_dots_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(dir.path().join("secret"), "outside").unwrap();
        std::fs::write(root.join("secret"), "inside").unwrap();
        symlink("../../../../secret", root.join("etc/up")).unwrap();
        symlink("/secret", root.join("etc/absolute")).unwrap();
        let root = Dir::open(&root).unwrap();
        for path in ["etc/up", "etc/absolute", "../secret", "/../secret"] {
            let file = root.open_regular_inside(Path::new(path)).unwrap();
            assert_eq!(io::read_to_string(file).unwrap(), "inside", "{path}");
            assert_eq!(root.read_inside(Path::new(path), 10).unwrap(), b"inside", "{path}");
        }
        for (path, outside) in [("etc/up", true), ("etc/../secret", false), ("nowhere", false)] {
            assert_eq!(root.leads_outside(Path::new(path)).unwrap(), outside, "{path}");
        }
    }

    #[test]
    fn neither_fifos_nor_large_files_hold_us_up() {
        let dir = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(dir.path().join("large"), [0; 11]).unwrap();
        let root = Dir::open(dir.path()).unwrap();
        assert!(root.read_inside(Path::new("fifo"), 10).is_err());
        let error = root.open_regular_inside(Path::new("fifo")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(root.read_inside(Path::new("large"), 10).is_err());
    }

    #[test]
    fn directories_are_made_inside_whatever_links_say() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("real")).unwrap();
        symlink("/real", root.join("etc")).unwrap();
        Dir::open(&root).unwrap().make_inside(Path::new("/etc/cray/ca")).unwrap();
        assert_eq!(root.join("real/cray/ca").metadata().unwrap().mode() & 0o7777, 0o755);
    }
}
