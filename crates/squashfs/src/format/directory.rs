//! Directory listings: runs of entries that share an inode block, each run under a header; and the
//! index by which large listings are searched.

use super::{Fill, u16_at, u32_at};

/// Bytes of a header on disk.
pub(crate) const HEADER: usize = 12;
/// Bytes of an entry on disk, its name left out.
pub(crate) const ENTRY: usize = 8;
/// Most entries under one header.
pub(crate) const MAX_RUN: usize = 256;
/// Longest name, as everywhere in Linux.
pub const MAX_NAME: usize = 255;
/// A directory inode's size counts three bytes more than its listing has ("." and ".." of old).
pub(crate) const SIZE_EXTRA: u32 = 3;

/// `struct squashfs_dir_header`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Entries that follow, 1 to 256 (stored less one).
    pub count: u32,
    /// Inode block of all entries in the run.
    pub inode_block: u32,
    /// Inode number that the entries' numbers are relative to.
    pub inode_number: u32,
}

impl Header {
    pub(crate) fn parse(bytes: &[u8; HEADER]) -> Self {
        Self {
            count: u32_at(bytes, 0).saturating_add(1),
            inode_block: u32_at(bytes, 4),
            inode_number: u32_at(bytes, 8),
        }
    }

    pub(crate) fn encode(self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[..4].copy_from_slice(&(self.count - 1).to_le_bytes());
        out[4..8].copy_from_slice(&self.inode_block.to_le_bytes());
        out[8..].copy_from_slice(&self.inode_number.to_le_bytes());
        out
    }
}

/// `struct squashfs_dir_entry` without its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Offset of the inode in its unpacked metadata block.
    pub inode_offset: u16,
    /// Inode number less the header's.
    pub number_delta: i16,
    /// The inode's basic type number, for extended inodes too.
    pub kind: u16,
    /// Bytes of the name that follows, 1 to 256 (stored less one).
    pub name_len: usize,
}

impl Entry {
    pub(crate) fn parse(bytes: &[u8; ENTRY]) -> Self {
        Self {
            inode_offset: u16_at(bytes, 0),
            number_delta: u16_at(bytes, 2) as i16,
            kind: u16_at(bytes, 4),
            name_len: usize::from(u16_at(bytes, 6)) + 1,
        }
    }

    pub(crate) fn encode(self) -> [u8; ENTRY] {
        let mut out = [0; ENTRY];
        out[..2].copy_from_slice(&self.inode_offset.to_le_bytes());
        out[2..4].copy_from_slice(&self.number_delta.to_le_bytes());
        out[4..6].copy_from_slice(&self.kind.to_le_bytes());
        out[6..].copy_from_slice(&((self.name_len - 1) as u16).to_le_bytes());
        out
    }
}

/// One entry of a directory index: the first name after a metadata block's boundary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    /// Bytes from the listing's start to the header that begins here.
    pub position: u32,
    /// Block of the directory table in which that header lies.
    pub block: u32,
    pub name: Vec<u8>,
}

impl IndexEntry {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(&self.block.to_le_bytes());
        out.extend_from_slice(&(self.name.len() as u32 - 1).to_le_bytes());
        out.extend_from_slice(&self.name);
    }

    pub(crate) fn read<F: Fill>(from: &mut F) -> Result<Option<Self>, F::Error> {
        let head: [u8; 12] = from.take()?;
        let length = u32_at(&head, 8) as usize;
        if length >= MAX_NAME {
            return Ok(None);
        }
        let mut name = vec![0; length + 1];
        from.fill(&mut name)?;
        Ok(Some(Self { position: u32_at(&head, 0), block: u32_at(&head, 4), name }))
    }
}
