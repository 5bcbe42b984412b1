//! File system calls that the standard library lacks. Called by `s3` and `publish`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::statvfs::fstatvfs;

/// Bytes that root may still write to the file system of `file`.
pub fn free_bytes(file: impl AsFd) -> io::Result<u64> {
    let figures = fstatvfs(file)?;
    Ok(figures.blocks_free() * figures.fragment_size())
}

/// Opens a regular file below `root` for reading; links are followed as if `root` were `/`.
///
/// What is not a regular file is never opened, only looked at: opening a device or a FIFO of an
/// image could act on the host or wait for ever. Such a file is `ErrorKind::InvalidInput`.
pub fn open_regular_in_root(root: &File, path: &Path) -> io::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let found = File::from(openat2(root, path, how)?);
    if !found.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    // The same inode again, for reading: no second walk, so nothing can be swapped in between.
    File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// Opens a directory as the root of [`open_regular_in_root`].
pub fn open_root(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    File::options().read(true).custom_flags(flags.bits()).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    fn text(root: &File, path: &str) -> io::Result<String> {
        let mut text = String::new();
        open_regular_in_root(root, Path::new(path))?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn links_end_inside_the_root_whatever_they_say() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        fs::create_dir_all(root.join("boot")).unwrap();
        fs::write(outside.path().join("secret"), "outside").unwrap();
        fs::write(root.join("boot/real"), "inside").unwrap();
        symlink("/boot/real", root.join("boot/absolute")).unwrap();
        symlink("../../../../boot/real", root.join("boot/climbing")).unwrap();
        symlink("../../secret", root.join("boot/escaping")).unwrap();
        symlink(outside.path().join("secret"), root.join("boot/host")).unwrap();
        let root = open_root(&root).unwrap();
        assert_eq!(text(&root, "boot/absolute").unwrap(), "inside");
        assert_eq!(text(&root, "boot/climbing").unwrap(), "inside");
        for link in ["boot/escaping", "boot/host", "../secret"] {
            assert_eq!(text(&root, link).unwrap_err().kind(), io::ErrorKind::NotFound, "{link}");
        }
    }

    #[test]
    fn a_fifo_is_refused_and_not_waited_for() {
        let root = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&root.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let root = open_root(root.path()).unwrap();
        assert_eq!(text(&root, "fifo").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(text(&root, ".").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn free_space_is_told() {
        assert!(free_bytes(tempfile::tempfile().unwrap()).unwrap() > 0);
    }
}
