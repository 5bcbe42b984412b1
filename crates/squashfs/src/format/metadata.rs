//! Metadata blocks: inodes, directories and tables are cut into blocks of 8 KiB, each with a 16-bit
//! header and compressed on its own.

/// Bytes of unpacked metadata in a block; only the last one of a table is shorter.
pub const BLOCK: usize = 8192;

/// Bytes of a metadata block's header.
pub const HEADER: usize = 2;

/// Set in the header when the block is not compressed.
const RAW: u16 = 0x8000;

/// The two bytes ahead of each metadata block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Bytes on disk after the header.
    pub stored: u16,
    /// True if the block is not compressed.
    pub raw: bool,
}

impl Header {
    pub(crate) fn parse(bytes: [u8; 2]) -> Self {
        let word = u16::from_le_bytes(bytes);
        Self { stored: word & !RAW, raw: word & RAW != 0 }
    }

    pub(crate) fn encode(self) -> [u8; 2] {
        (self.stored | if self.raw { RAW } else { 0 }).to_le_bytes()
    }
}

/// The place of a structure in a metadata table: byte offset of its block from the table's start, and
/// offset in the unpacked block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference(pub u64);

impl Reference {
    /// The structure `offset` bytes into the unpacked block at `block`.
    pub fn new(block: u64, offset: u16) -> Self {
        Self(block << 16 | u64::from(offset))
    }

    /// Byte offset of the block from the start of its table.
    pub fn block(self) -> u64 {
        self.0 >> 16
    }

    /// Byte offset in the unpacked block.
    pub fn offset(self) -> usize {
        usize::from(self.0 as u16)
    }
}
