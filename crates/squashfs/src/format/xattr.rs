//! Extended attributes: entries of name and value in metadata blocks, and the table of sets.

use super::{u32_at, u64_at};

/// An inode's attribute number when it has none.
pub(crate) const NONE: u32 = u32::MAX;
/// Bytes of an entry of the table of sets.
pub(crate) const SET_SIZE: usize = 16;
/// Set in an entry's type when the value lies elsewhere and a reference stands in its place.
pub(crate) const OUT_OF_LINE: u16 = 0x100;

/// The only namespaces that the format can hold, in the order of their numbers.
const PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// Prefix number and rest of an attribute's full name; `None` for other namespaces
/// (`system.posix_acl_access` above all).
pub(crate) fn split(name: &[u8]) -> Option<(u16, &[u8])> {
    PREFIXES
        .iter()
        .zip(0u16..)
        .find_map(|(prefix, number)| name.strip_prefix(*prefix).map(|rest| (number, rest)))
        .filter(|(_, rest)| !rest.is_empty())
}

/// The prefix of an entry's type, without [`OUT_OF_LINE`].
pub(crate) fn prefix(kind: u16) -> Option<&'static [u8]> {
    PREFIXES.get(usize::from(kind & !OUT_OF_LINE)).copied()
}

/// `struct squashfs_xattr_id`: one set of attributes, shared by all inodes that carry it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Set {
    /// Reference of the first entry.
    pub reference: u64,
    pub count: u32,
    /// Bytes of the set's entries with their values.
    pub size: u32,
}

impl Set {
    pub(crate) fn parse(bytes: &[u8; SET_SIZE]) -> Self {
        Self { reference: u64_at(bytes, 0), count: u32_at(bytes, 8), size: u32_at(bytes, 12) }
    }

    pub(crate) fn encode(self) -> [u8; SET_SIZE] {
        let mut out = [0; SET_SIZE];
        out[..8].copy_from_slice(&self.reference.to_le_bytes());
        out[8..12].copy_from_slice(&self.count.to_le_bytes());
        out[12..].copy_from_slice(&self.size.to_le_bytes());
        out
    }
}
