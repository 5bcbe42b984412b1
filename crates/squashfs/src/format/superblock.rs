//! The superblock: the first 96 bytes of an image.

use super::{u16_at, u32_at, u64_at};

/// Length of the superblock in bytes.
pub const SIZE: usize = 96;

const MAGIC: u32 = 0x7371_7368;

/// A table position that says that there is no such table.
pub const ABSENT: u64 = u64::MAX;

/// Bits of [`Superblock::flags`].
pub mod flags {
    /// Files are looked up for duplicates of their content (informative).
    pub const DUPLICATES: u16 = 0x40;
    /// The export table is there.
    pub const EXPORTABLE: u16 = 0x80;
    /// A block of compressor options follows the superblock.
    pub const COMPRESSOR_OPTIONS: u16 = 0x400;
}

/// The compressor of an image, with its number on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compressor {
    /// zlib, the usual one.
    Gzip = 1,
    /// The old form of xz; such images can be read.
    Lzma = 2,
    /// LZO1X.
    Lzo = 3,
    /// LZMA2.
    Xz = 4,
    /// LZ4, fast and large.
    Lz4 = 5,
    /// Zstandard.
    Zstd = 6,
}

impl Compressor {
    fn from_id(id: u16) -> Option<Self> {
        Some(match id {
            1 => Self::Gzip,
            2 => Self::Lzma,
            3 => Self::Lzo,
            4 => Self::Xz,
            5 => Self::Lz4,
            6 => Self::Zstd,
            _ => return None,
        })
    }
}

/// `struct squashfs_super_block`. Table positions are byte offsets from the start of the image;
/// `u64::MAX` means that the table is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Inodes of the image.
    pub inode_count: u32,
    /// Seconds since 1970-01-01 UTC.
    pub mkfs_time: u32,
    /// Bytes in a data block, a power of two from 4 KiB to 1 MiB.
    pub block_size: u32,
    /// Fragment blocks.
    pub fragment_count: u32,
    /// What all blocks are compressed with.
    pub compressor: Compressor,
    /// Bits of [`flags`].
    pub flags: u16,
    /// Owners and groups, each number once.
    pub id_count: u16,
    /// Reference of the root directory's inode: metadata block offset in the upper 48 bits, offset in
    /// the unpacked block in the lower 16.
    pub root_inode: u64,
    /// Length of the image in bytes, padding left out.
    pub bytes_used: u64,
    /// Where the owners and groups are.
    pub id_table: u64,
    /// Where the extended attributes are.
    pub xattr_table: u64,
    /// Where the inodes are.
    pub inode_table: u64,
    /// Where the listings are.
    pub directory_table: u64,
    /// Where the list of the fragment blocks is.
    pub fragment_table: u64,
    /// Where the list of the inodes by number is, for NFS.
    pub export_table: u64,
}

/// Why bytes are not a superblock that this program reads.
#[allow(missing_docs, reason = "the messages say it")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("only {0} bytes, a squashfs superblock has 96")]
    Short(usize),
    #[error("no squashfs magic at the start (found {0:#010x})")]
    Magic(u32),
    #[error("squashfs version {major}.{minor}, only 4.0 is supported")]
    Version { major: u16, minor: u16 },
    #[error("unknown squashfs compressor number {0}")]
    Compressor(u16),
    #[error("block size {size} with log2 {log}, not a power of two from 4 KiB to 1 MiB")]
    BlockSize { size: u32, log: u16 },
}

impl Superblock {
    /// Reads a superblock from the first bytes of an image.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() < SIZE {
            return Err(Error::Short(bytes.len()));
        }
        let magic = u32_at(bytes, 0);
        if magic != MAGIC {
            return Err(Error::Magic(magic));
        }
        let (major, minor) = (u16_at(bytes, 28), u16_at(bytes, 30));
        if (major, minor) != (4, 0) {
            return Err(Error::Version { major, minor });
        }
        let (block_size, block_log) = (u32_at(bytes, 12), u16_at(bytes, 22));
        if !(12..=20).contains(&block_log) || block_size != 1 << block_log {
            return Err(Error::BlockSize { size: block_size, log: block_log });
        }
        let id = u16_at(bytes, 20);
        Ok(Self {
            inode_count: u32_at(bytes, 4),
            mkfs_time: u32_at(bytes, 8),
            block_size,
            fragment_count: u32_at(bytes, 16),
            compressor: Compressor::from_id(id).ok_or(Error::Compressor(id))?,
            flags: u16_at(bytes, 24),
            id_count: u16_at(bytes, 26),
            root_inode: u64_at(bytes, 32),
            bytes_used: u64_at(bytes, 40),
            id_table: u64_at(bytes, 48),
            xattr_table: u64_at(bytes, 56),
            inode_table: u64_at(bytes, 64),
            directory_table: u64_at(bytes, 72),
            fragment_table: u64_at(bytes, 80),
            export_table: u64_at(bytes, 88),
        })
    }

    /// The superblock as it is stored.
    pub(crate) fn encode(&self) -> [u8; SIZE] {
        let mut out = Vec::with_capacity(SIZE);
        for word in [MAGIC, self.inode_count, self.mkfs_time, self.block_size, self.fragment_count]
        {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let log = self.block_size.trailing_zeros() as u16;
        for half in [self.compressor as u16, log, self.flags, self.id_count, 4, 0] {
            out.extend_from_slice(&half.to_le_bytes());
        }
        for long in [
            self.root_inode,
            self.bytes_used,
            self.id_table,
            self.xattr_table,
            self.inode_table,
            self.directory_table,
            self.fragment_table,
            self.export_table,
        ] {
            out.extend_from_slice(&long.to_le_bytes());
        }
        out.try_into().expect("the fields above are 96 bytes")
    }

    /// True if a block of compressor options follows.
    pub fn has_options(&self) -> bool {
        self.flags & flags::COMPRESSOR_OPTIONS != 0
    }
}
