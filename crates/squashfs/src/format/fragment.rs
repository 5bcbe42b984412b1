//! The fragment table's entries: where each block of packed small files lies.

use super::block::BlockWord;
use super::{u32_at, u64_at};

/// Bytes of an entry on disk.
pub(crate) const SIZE: usize = 16;

/// The fragment number of a file that has no fragment.
pub(crate) const NONE: u32 = u32::MAX;

/// `struct squashfs_fragment_entry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Byte offset from the start of the image.
    pub start: u64,
    pub word: BlockWord,
}

impl Fragment {
    pub fn parse(bytes: &[u8; SIZE]) -> Self {
        Self { start: u64_at(bytes, 0), word: BlockWord(u32_at(bytes, 8)) }
    }

    pub fn encode(self) -> [u8; SIZE] {
        let mut out = [0; SIZE];
        out[..8].copy_from_slice(&self.start.to_le_bytes());
        out[8..12].copy_from_slice(&self.word.0.to_le_bytes());
        out
    }
}
