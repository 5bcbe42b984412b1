//! What can go wrong while unpacking.

use std::io;
use std::path::{Path, PathBuf};

use crate::read;

/// Why an image was not unpacked.
#[allow(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Image(#[from] read::Error),
    #[error("cannot {action} {}", path.display())]
    Write { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not empty; unpack into a new directory", .0.display())]
    NotEmpty(PathBuf),
    #[error("cancelled")]
    Cancelled,
    /// A worker has failed and tells why; never seen outside.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub(super) fn write(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Write { action, path: path.to_owned(), source }
    }
}
