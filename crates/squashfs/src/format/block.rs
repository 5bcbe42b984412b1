//! The word that encodes how a data block or fragment block is stored: its length, whether raw.

/// Set in a block's word when the block is stored as it is, not compressed.
const RAW: u32 = 1 << 24;

/// Length on disk and storage of one data or fragment block, as block lists and the fragment table
/// hold it. A stored length of 0 is a sparse block: all zeros, nothing on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockWord(pub u32);

impl BlockWord {
    pub const SPARSE: Self = Self(0);

    pub fn new(stored: u32, raw: bool) -> Self {
        Self(if raw { stored | RAW } else { stored })
    }

    /// Bytes on disk.
    pub fn stored(self) -> u32 {
        self.0 & !RAW
    }

    pub fn is_raw(self) -> bool {
        self.0 & RAW != 0
    }

    pub fn is_sparse(self) -> bool {
        self.stored() == 0
    }
}
