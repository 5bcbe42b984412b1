//! A job's directory on its node: locked, mounted where users expect it, and removed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::blocking::blocking;
use crate::remote::wire::inbox;
use linux::files::Locked;
use linux::mount::{Mounted, MsFlags};

/// Held for as long as the work lasts, so that other jobs see that the directory is somebody's.
const LOCK: &str = "lock";

/// What users know as `IMAGE_ROOT_PARENT`, as it is called outside.
pub(super) fn image_dir(directory: &Path) -> PathBuf {
    directory.join("image")
}

/// Takes possession of the job's directory, unpacks the inbox, and puts the directory where users
/// expect it, for the processes of our mount namespace alone.
pub(super) fn settle(directory: &Path, parent: &Path) -> anyhow::Result<(Locked, Mounted)> {
    let failed = || format!("cannot use {}", directory.display());
    let lock = lock(directory).with_context(failed)?;
    let archive = directory.join(inbox::ARCHIVE);
    let mut inbox = tar::Archive::new(File::open(&archive).with_context(failed)?);
    inbox.set_preserve_permissions(true);
    inbox.unpack(directory).with_context(failed)?;
    fs::remove_file(&archive).with_context(failed)?;
    let image = image_dir(directory);
    fs::create_dir(&image).with_context(failed)?;
    fs::create_dir_all(parent)
        .with_context(|| format!("cannot make {} on the node", parent.display()))?;
    let bound = Mounted::new("none", &image, parent, MsFlags::MS_BIND, None)?;
    Ok((lock, bound))
}

/// Under its name it is locked from the first moment.
fn lock(directory: &Path) -> std::io::Result<Locked> {
    let new = directory.join("lock.new");
    let file = File::create(&new)?;
    let lock = Locked::exclusively(file).map_err(|(_, errno)| errno)?;
    fs::rename(new, directory.join(LOCK))?;
    Ok(lock)
}

/// Takes away all that the job has here.
pub(super) async fn remove(directory: PathBuf) -> anyhow::Result<()> {
    blocking(move || {
        fs::remove_dir_all(&directory)
            .with_context(|| format!("cannot remove {}", directory.display()))
    })
    .await
}
