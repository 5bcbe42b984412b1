//! Why an image cannot be read.

use std::io;
use std::path::PathBuf;

use crate::codec;
use crate::format::{inode, superblock};

/// Why an image cannot be read.
#[allow(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open the image {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot read {length} bytes at byte {position} of the image")]
    Io { position: u64, length: usize, source: io::Error },
    #[error("not a usable squashfs image")]
    Superblock(#[from] superblock::Error),
    #[error("the image is damaged: {what} (at byte {position})")]
    Damaged { what: &'static str, position: u64 },
    #[error("the image is damaged: bad inode")]
    Inode(#[from] inode::Invalid),
    #[error("the image is damaged: block at byte {position}")]
    Block { position: u64, source: codec::Error },
    #[error(transparent)]
    Codec(#[from] codec::Error),
}

impl Error {
    pub(super) fn damaged(what: &'static str, position: u64) -> Self {
        Self::Damaged { what, position }
    }
}
