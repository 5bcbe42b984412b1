//! The data directory, only for its owner: it contains images with their shadow files and host
//! keys, and secrets.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use linux::trusted;

/// What others may do to a file.
const OTHERS: u32 = 0o077;

/// Where an image's own modes count: below the directories of jobs and sessions.
const OF_IMAGES: [&str; 2] = ["jobs", "cfs/work"];

/// Creates the data directory, or checks the one that is there: another user's is refused, one that
/// others can enter is closed to them, with all that is in it.
pub fn prepare(path: &Path) -> io::Result<()> {
    make_private(path)?;
    let found = std::fs::metadata(path)?;
    if !found.is_dir() {
        return Err(io::Error::from(io::ErrorKind::NotADirectory));
    }
    if found.uid() != trusted::user() {
        let why =
            format!("it belongs to another user (uid {}); use another directory", found.uid());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    if found.mode() & OTHERS != 0 {
        tracing::warn!(
            data = %path.display(),
            mode = format!("{:04o}", found.mode() & 0o7777),
            "other users had access to the data directory; removed their permissions"
        );
        close(path)?;
        tighten(path, path)?;
    }
    Ok(())
}

/// Creates a directory and its parents, only for the owner; an existing one is not changed.
pub fn make_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Lets all users traverse a directory of ours, regardless of the umask.
pub fn let_pass(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// Removes the permissions of other users from everything in `at`, except the contents of images.
fn tighten(data: &Path, at: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(at)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_file() || kind.is_dir() {
            close(&path)?;
        }
        if kind.is_dir() && !OF_IMAGES.iter().any(|name| path == data.join(name)) {
            tighten(data, &path)?;
        }
    }
    Ok(())
}

fn close(path: &Path) -> io::Result<()> {
    let mode = std::fs::symlink_metadata(path)?.mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode & !OTHERS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn an_open_directory_is_closed_with_all_but_image_roots() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        prepare(&data).unwrap();
        assert_eq!(mode(&data), 0o700);
        let root = data.join("jobs/1/mnt/etc");
        let blob = data.join("s3/blobs/b");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
        std::fs::write(&blob, "image").unwrap();
        for path in [&data, &root] {
            let_pass(path).unwrap();
        }
        std::fs::set_permissions(&blob, Permissions::from_mode(0o644)).unwrap();
        prepare(&data).unwrap();
        assert_eq!((mode(&data), mode(&blob), mode(&data.join("s3"))), (0o700, 0o600, 0o700));
        assert_eq!(mode(&root), 0o755, "an image's own modes stay");
    }

    #[test]
    fn another_users_directory_and_a_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        if trusted::user() == 0 {
            let data = dir.path().join("data");
            std::fs::create_dir(&data).unwrap();
            std::os::unix::fs::chown(&data, Some(65534), None).unwrap();
            let refused = prepare(&data).unwrap_err();
            assert!(refused.to_string().contains("uid 65534"), "{refused}");
        }
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(prepare(&file).is_err());
    }
}
