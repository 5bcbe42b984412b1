//! Making and removing entries. What is made is its owner's alone until its mode is set.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::{Dir, Name};
use crate::stat::{FileKind, device};

const OWNER_ALONE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

impl Dir {
    /// Makes the directory `name`, which must not exist, with these permissions whatever the umask.
    pub fn make_dir(&self, name: &(impl Name + ?Sized), mode: u32) -> io::Result<Self> {
        mkdirat(&self.0, name.as_name(), Mode::S_IRWXU)?;
        let made = self.child(name)?;
        if mode != Mode::S_IRWXU.bits() {
            made.set_mode(".", mode)?;
        }
        Ok(made)
    }

    /// Makes the regular file `name`, which must not exist.
    pub fn make_file(&self, name: &(impl Name + ?Sized)) -> io::Result<File> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(&self.0, name.as_name(), flags, OWNER_ALONE)?.into())
    }

    /// Makes the symbolic link `name`.
    pub fn make_symlink(
        &self,
        name: &(impl Name + ?Sized),
        target: &(impl Name + ?Sized),
    ) -> io::Result<()> {
        Ok(symlinkat(target.as_name(), &self.0, name.as_name())?)
    }

    /// Makes a device, fifo or socket; `device` is major and minor.
    pub fn make_node(
        &self,
        name: &(impl Name + ?Sized),
        kind: FileKind,
        (major, minor): (u32, u32),
    ) -> io::Result<()> {
        let device = device(major, minor);
        Ok(mknodat(&self.0, name.as_name(), kind.bits(), OWNER_ALONE, device)?)
    }

    /// Makes `name` another name of `old_name` in `old_dir`.
    pub fn make_link(
        &self,
        name: &(impl Name + ?Sized),
        old_dir: &Self,
        old_name: &(impl Name + ?Sized),
    ) -> io::Result<()> {
        let (old, new) = (old_name.as_name(), name.as_name());
        Ok(linkat(&old_dir.0, old, &self.0, new, AtFlags::empty())?)
    }

    /// Removes `name`, which is not a directory; nothing happens if it is not there.
    pub fn remove(&self, name: &(impl Name + ?Sized)) -> io::Result<()> {
        self.unlink(name, UnlinkatFlags::NoRemoveDir)
    }

    /// Removes the directory `name`, which must be empty; nothing happens if it is not there.
    pub fn remove_dir(&self, name: &(impl Name + ?Sized)) -> io::Result<()> {
        self.unlink(name, UnlinkatFlags::RemoveDir)
    }

    fn unlink(&self, name: &(impl Name + ?Sized), flags: UnlinkatFlags) -> io::Result<()> {
        match unlinkat(&self.0, name.as_name(), flags) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    #[test]
    fn what_is_made_is_removed_and_what_is_there_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let made = dir.make_dir("dir", 0o1777).unwrap();
        assert_eq!(made.stat_self().unwrap().st_mode & 0o7777, 0o1777);
        assert_eq!(dir.make_dir("dir", 0o755).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        drop(dir.make_file("file").unwrap());
        assert_eq!(dir.make_file("file").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        made.make_link("link", &dir, "file").unwrap();
        assert_eq!(temp.path().join("file").metadata().unwrap().nlink(), 2);
        dir.make_node(b"node", FileKind::CharDevice, (1, 3)).unwrap();
        let node = temp.path().join("node").metadata().unwrap();
        assert!(node.file_type().is_char_device() && node.rdev() == device(1, 3));
        assert!(dir.remove_dir("dir").is_err(), "it is not empty");
        made.remove("link").unwrap();
        for name in ["file", "node", "never"] {
            dir.remove(name).unwrap();
        }
        dir.remove_dir("dir").unwrap();
        dir.remove_dir("dir").unwrap();
        assert!(dir.names().unwrap().is_empty());
    }
}
