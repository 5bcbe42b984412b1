//! Unpacking an image with `unsquashfs`.

use std::path::Path;
use std::process::Command;

use tokio_util::sync::CancellationToken;

use super::version::installed;
use super::{Error, bar, free_beside, says_full};
use linux::process;
use progress::Progress;

/// An image to be unpacked.
pub struct Unpack<'a> {
    /// The squashfs file.
    pub image: &'a Path,
    /// Made if it is not there; what is in it is overwritten.
    pub root: &'a Path,
    /// Decompressing threads.
    pub threads: usize,
    /// Set to percent.
    pub meter: &'a dyn Progress,
    /// Ends the tool early.
    pub cancel: &'a CancellationToken,
}

/// Unpacks with owners, modes, times, devices, hard links and extended attributes. What cannot be
/// kept is an error. On an error the half-unpacked tree is the caller's to remove.
pub fn unpack(unpack: &Unpack) -> Result<(), Error> {
    installed("unsquashfs")?;
    let free_before = free_beside(unpack.root);
    let mut command = Command::new("unsquashfs");
    command.args(["-f", "-xattrs", "-processors"]).arg(unpack.threads.max(1).to_string());
    command.arg("-d").arg(unpack.root).arg(unpack.image);
    let output = process::run_on_terminal(&mut command, unpack.cancel, |line| {
        if let Some(percent) = bar::percent(line) {
            unpack.meter.set(percent);
        }
    })
    .map_err(|error| explain(error, unpack.root, free_before))?;
    // Version 4.4 ends well even when it could not write an attribute.
    if output.stderr.contains("write_xattr") {
        return Err(Error::XattrsLost { messages: output.stderr });
    }
    if !output.stderr.is_empty() {
        tracing::warn!(messages = %output.stderr, "unsquashfs printed warnings");
    }
    unpack.meter.set(100);
    Ok(())
}

fn explain(source: process::Error, root: &Path, free_before: u64) -> Error {
    match &source {
        process::Error::Cancelled { .. } => Error::Cancelled,
        process::Error::Failed { stderr, .. } if says_full(stderr) => {
            Error::DiskFull { path: root.into(), free_before, source: Box::new(source) }
        }
        process::Error::Failed { stderr, .. } if stderr.contains("write_xattr") => {
            Error::XattrsLost { messages: stderr.clone() }
        }
        _ => Error::Failed { what: "unpacking the image", source },
    }
}
