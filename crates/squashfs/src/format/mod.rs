//! The on-disk structures of squashfs 4.0 (little endian), one file a structure.
//!
//! Source of the layout: Linux `fs/squashfs/squashfs_fs.h` and
//! `Documentation/filesystems/squashfs.rst`. Nothing here does I/O.

pub(crate) mod block;
pub(crate) mod directory;
pub(crate) mod fragment;
pub mod inode;
pub mod metadata;
pub(crate) mod options;
pub mod superblock;
pub(crate) mod xattr;

pub use directory::MAX_NAME;
pub use inode::{Inode, Kind};
pub use superblock::{Compressor, Superblock};

/// Where a structure's bytes come from, in order; `read` gives bytes of metadata blocks.
pub(crate) trait Fill {
    type Error;

    /// Fills `buffer` whole with the next bytes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Self::Error>;

    /// The next `N` bytes.
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Self::Error> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

/// The little-endian 16-bit number at `at`. Callers have checked the length.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The little-endian 32-bit number at `at`. Callers have checked the length.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

/// The little-endian 64-bit number at `at`. Callers have checked the length.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
