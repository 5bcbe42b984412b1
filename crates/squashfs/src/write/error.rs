//! What can go wrong while packing.

use std::io;
use std::path::{Path, PathBuf};

use crate::codec;

/// Why a tree was not packed.
#[allow(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    Read { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} changed while it was being packed; stop what writes to the tree and pack again",
        .0.display()
    )]
    Changed(PathBuf),
    #[error("{} was removed while the tree was being packed; stop what writes to the tree and \
             pack again", .0.display())]
    Vanished(PathBuf),
    #[error("cannot write the image {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Codec(#[from] codec::Error),
    #[error("block size {0}: not a power of two from 4 KiB to 1 MiB")]
    BlockSize(u32),
    #[error("{what}: exceeds a limit of the squashfs format")]
    TooLarge { what: &'static str },
    #[error("the base image cannot be read")]
    Base(#[from] crate::read::Error),
    #[error(
        "{} has only metadata in the upper layer, and its content is not in the base: the overlay \
         was not mounted on this base",
        .0.display()
    )]
    OverlayOrigin(PathBuf),
    #[error("the base cannot be reused ({reason}), and no overlay is mounted on {}", root.display())]
    NotMounted { root: PathBuf, reason: String },
    /// What feeds the pipeline could not read its input.
    #[error(transparent)]
    Input(Box<dyn std::error::Error + Send + Sync>),
    #[error("cancelled")]
    Cancelled,
    /// Another thread of the pipeline has failed and reports why; never seen outside.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub(crate) fn read(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound if action != "open" => Self::Vanished(path.to_owned()),
            _ => Self::Read { action, path: path.to_owned(), source },
        }
    }

    /// The first error that is a cause, not a consequence in another thread.
    pub(crate) fn root_cause(errors: Vec<Self>) -> Option<Self> {
        let mut first = None;
        for error in errors {
            if !matches!(error, Self::Interrupted) {
                return Some(error);
            }
            first.get_or_insert(error);
        }
        first
    }
}

/// A channel's other end is gone: its thread has failed.
impl<T> From<crossbeam_channel::SendError<T>> for Error {
    fn from(_: crossbeam_channel::SendError<T>) -> Self {
        Self::Interrupted
    }
}

impl From<crossbeam_channel::RecvError> for Error {
    fn from(_: crossbeam_channel::RecvError) -> Self {
        Self::Interrupted
    }
}
