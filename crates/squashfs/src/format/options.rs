//! The compressor's options: an uncompressed metadata block right behind the superblock.
//!
//! mksquashfs leaves it out when all options have their defaults, but for lz4, which always has it.

use super::superblock::Compressor;
use super::u32_at;

/// What the option block says, as far as this program acts on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Options {
    /// lz4: version 1; whether the high-compression encoder was used.
    Lz4 { high: bool },
    /// zstd: the level, 1 to 22.
    Zstd { level: u32 },
    /// xz: bytes of the dictionary, and the branch filters that were tried (bit set).
    Xz { dictionary: u32, filters: u32 },
}

const LZ4_LEGACY: u32 = 1;
const LZ4_HIGH: u32 = 1;

impl Options {
    pub fn encode(&self) -> Vec<u8> {
        let words = match self {
            Self::Lz4 { high } => vec![LZ4_LEGACY, if *high { LZ4_HIGH } else { 0 }],
            Self::Zstd { level } => vec![*level],
            Self::Xz { dictionary, filters } => vec![*dictionary, *filters],
        };
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    /// What matters of an option block; `None` when nothing does (gzip, lzo) or it is too short.
    pub fn parse(compressor: Compressor, bytes: &[u8]) -> Option<Self> {
        let second = || (bytes.len() >= 8).then(|| u32_at(bytes, 4));
        let first = (bytes.len() >= 4).then(|| u32_at(bytes, 0))?;
        match compressor {
            Compressor::Lz4 => Some(Self::Lz4 { high: second()? & LZ4_HIGH != 0 }),
            Compressor::Zstd => Some(Self::Zstd { level: first }),
            Compressor::Xz => Some(Self::Xz { dictionary: first, filters: second()? }),
            Compressor::Gzip | Compressor::Lzma | Compressor::Lzo => None,
        }
    }
}
