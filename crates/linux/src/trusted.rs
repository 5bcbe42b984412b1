//! Directories and files that only root and the user of this process can have written.
//!
//! For files that name the destination of a secret: read by `standalone::here`.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::dir::Dir;

/// The user this process acts as.
pub fn user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// Opens a directory that is no link, and that only root or we can write.
pub fn directory(path: &Path) -> io::Result<Dir> {
    let named = std::fs::symlink_metadata(path)?;
    let dir = Dir::open(path)?;
    let found = dir.stat_self()?;
    if (named.dev(), named.ino()) != (found.st_dev, found.st_ino) {
        return Err(refused("it is a symbolic link"));
    }
    check(found.st_uid, found.st_mode)?;
    Ok(dir)
}

/// Opens a regular file in it, itself no link, that only root or we can write.
pub fn file(dir: &Dir, name: &Path) -> io::Result<std::fs::File> {
    let file = dir.open_file(name)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(refused("it is not a regular file"));
    }
    check(found.uid(), found.mode())?;
    Ok(file)
}

fn check(owner: u32, mode: u32) -> io::Result<()> {
    if owner != user() && owner != 0 {
        return Err(refused("it belongs to another user"));
    }
    if mode & 0o022 != 0 {
        return Err(refused("other users can write to it"));
    }
    Ok(())
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, format!("not trusted: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    #[test]
    fn what_others_can_write_or_own_and_links_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let (path, name) = (temp.path().join("d"), Path::new("f"));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join(name), "x").unwrap();
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        };
        set(&path, 0o755);
        set(&path.join(name), 0o644);
        let dir = directory(&path).unwrap();
        file(&dir, name).unwrap();
        for mode in [0o664, 0o646] {
            set(&path.join(name), mode);
            assert!(file(&dir, name).is_err(), "{mode:o}");
        }
        for mode in [0o775, 0o757] {
            set(&path, mode);
            assert!(directory(&path).is_err(), "{mode:o}");
        }
        set(&path, 0o755);
        symlink("f", path.join("link")).unwrap();
        assert!(file(&dir, Path::new("link")).is_err());
        symlink("d", temp.path().join("link")).unwrap();
        assert!(directory(&temp.path().join("link")).is_err());
        if user() == 0 {
            chown(&path, Some(65534), None).unwrap();
            assert!(directory(&path).is_err());
        }
    }
}
