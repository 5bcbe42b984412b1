//! The squashfs-tools as an engine: `mksquashfs` packs a tree, `unsquashfs` unpacks one.

mod bar;
mod pack;
mod unpack;
mod version;

use std::io;
use std::path::{Path, PathBuf};

pub use pack::{Pack, pack};
pub use unpack::{Unpack, unpack};

use linux::disk::{self, human};
use linux::process;

/// Why a tool did not do its work.
#[allow(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{program} is needed: install the package squashfs-tools or squashfs")]
    Missing { program: &'static str, source: process::Error },
    #[error("{program} has version {found:?}; 4.4 or newer is needed")]
    TooOld { program: &'static str, found: String },
    #[error("these mounts in {root} would be packed too, unmount them first: {}", list(.mounts))]
    MountedBelow { root: PathBuf, mounts: Vec<PathBuf> },
    #[error("no space left for {path}: {} were free at the start", human(*.free_before))]
    DiskFull { path: PathBuf, free_before: u64, source: Box<process::Error> },
    #[error("could not keep extended attributes of the image: {messages}")]
    XattrsLost { messages: String },
    #[error("cannot {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{what} failed")]
    Failed { what: &'static str, source: process::Error },
    #[error("cancelled")]
    Cancelled,
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Bytes that can be written beside `path`, for the error that comes when they are used up: the
/// tools clean up after themselves, so that later it cannot be told.
fn free_beside(path: &Path) -> u64 {
    disk::space(path.parent().unwrap_or(path)).map_or(0, |space| space.free)
}

/// True if the tools' stderr says that the disk or a quota is full.
fn says_full(stderr: &str) -> bool {
    ["No space left on device", "Disk quota exceeded", "out of space on output filesystem"]
        .iter()
        .any(|sign| stderr.contains(sign))
}

#[cfg(test)]
mod tests;
