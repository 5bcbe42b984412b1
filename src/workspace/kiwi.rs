//! `/image`, where kiwi leaves its configuration: passwords and scripts that only root may read.

use std::io;
use std::path::{Path, PathBuf};

use super::Error;
use linux::dir::Dir;
use linux::stat::FileKind;

/// Closes `/image` of an image root, if it has one (contract section 4.2): all of it root's,
/// directories 0700, files 0600, `*.sh` 0700. Links are neither followed nor changed.
pub fn close_kiwi_directory(root: &Path) -> Result<(), Error> {
    close(root).map_err(|source| Error::io("close", root.join("image"), source))
}

fn close(root: &Path) -> io::Result<()> {
    let root = Dir::open(root)?;
    let top = Path::new("image");
    match root.find(top)? {
        Some(stat) if FileKind::of(stat.st_mode) == FileKind::Directory => {}
        Some(_) => {
            tracing::warn!("/image of the image root is not a directory; not changed");
            return Ok(());
        }
        None => return Ok(()),
    }
    set(&root, top, 0o700)?;
    let mut directories = vec![top.to_path_buf()];
    while let Some(path) = directories.pop() {
        close_entries(&root, &path, &mut directories)?;
    }
    Ok(())
}

fn close_entries(root: &Dir, path: &Path, directories: &mut Vec<PathBuf>) -> io::Result<()> {
    let dir = root.inside(path)?;
    for name in dir.names()?.iter().map(Path::new) {
        let Some(stat) = dir.find(name)? else { continue };
        match FileKind::of(stat.st_mode) {
            FileKind::Directory => {
                set(&dir, name, 0o700)?;
                directories.push(path.join(name));
            }
            FileKind::Regular if name.extension().is_some_and(|extension| extension == "sh") => {
                set(&dir, name, 0o700)?;
            }
            FileKind::Regular => set(&dir, name, 0o600)?,
            _ => {}
        }
    }
    Ok(())
}

/// Only what is not so yet: each change copies a file up into an overlay.
fn set(dir: &Dir, name: &Path, mode: u32) -> io::Result<()> {
    match dir.find(name)? {
        Some(stat) if (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777) == (0, 0, mode) => Ok(()),
        _ => dir.set_owner_mode(name, 0, 0, mode),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

    fn mode(path: &Path) -> (u32, u32) {
        let metadata = path.symlink_metadata().unwrap();
        (metadata.mode() & 0o7777, metadata.uid())
    }

    #[test]
    fn all_of_it_becomes_roots_and_nothing_outside_is_touched() {
        let temp = tempfile::tempdir().unwrap();
        let (root, victim) = (temp.path().join("root"), temp.path().join("victim"));
        std::fs::create_dir_all(root.join("image/sub dir")).unwrap();
        std::fs::write(&victim, "").unwrap();
        std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o644)).unwrap();
        symlink(&victim, root.join("image/link")).unwrap();
        for name in ["config.xml", "config.sh", "*.sh", "sub dir/a b"] {
            std::fs::write(root.join("image").join(name), "").unwrap();
            chown(root.join("image").join(name), Some(7), Some(7)).unwrap();
        }
        close_kiwi_directory(&root).unwrap();
        let image = root.join("image");
        for (name, wanted) in [
            ("", 0o700),
            ("sub dir", 0o700),
            ("config.xml", 0o600),
            ("config.sh", 0o700),
            ("*.sh", 0o700),
            ("sub dir/a b", 0o600),
        ] {
            assert_eq!(mode(&image.join(name)), (wanted, 0), "{name}");
        }
        assert_eq!(mode(&victim).0, 0o644);
    }

    #[test]
    fn no_directory_is_no_error_and_a_link_is_left() {
        let temp = tempfile::tempdir().unwrap();
        close_kiwi_directory(temp.path()).unwrap();
        let (root, outside) = (temp.path().join("root"), temp.path().join("outside"));
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::set_permissions(&outside, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(&root).unwrap();
        symlink(&outside, root.join("image")).unwrap();
        close_kiwi_directory(&root).unwrap();
        assert_eq!(mode(&outside).0, 0o755);
    }
}
