//! Reads directory listings, and refuses names that no directory can have.

use super::Error;
use super::image::Image;
use super::metadata::Cursor;
use crate::format::Fill;
use crate::format::directory::SIZE_EXTRA;
use crate::format::directory::{ENTRY, Entry, HEADER, Header, MAX_NAME, MAX_RUN};
use crate::format::inode::Directory;
use crate::format::metadata::Reference;

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// No slash is in it.
    pub name: Vec<u8>,
    /// Place of the inode.
    pub inode: Reference,
}

impl Image {
    /// The entries of a directory in their order, which is that of the names' bytes; a listing out of
    /// order, or with a name twice, is an error.
    pub fn list(&self, directory: &Directory) -> Result<Vec<DirEntry>, Error> {
        let Some(mut left) = u64::from(directory.size).checked_sub(SIZE_EXTRA.into()) else {
            return Ok(Vec::new());
        };
        let mut entries: Vec<DirEntry> = Vec::new();
        if left == 0 {
            return Ok(entries);
        }
        let table = self.superblock().directory_table;
        let end = self.superblock().bytes_used;
        let at = Reference::new(directory.block.into(), directory.offset);
        let mut cursor = Cursor::new(&self.metadata, table, at, end)?;
        let damaged = |what| Error::damaged(what, table + u64::from(directory.block));
        while left > 0 {
            left = left.checked_sub(HEADER as u64).ok_or_else(|| {
                damaged(
                    "a truncated directory \
                listing",
                )
            })?;
            let header = Header::parse(&cursor.take()?);
            if header.count as usize > MAX_RUN {
                return Err(damaged("a directory with too long a run of entries"));
            }
            for _ in 0..header.count {
                let entry = Entry::parse(&cursor.take()?);
                left = left
                    .checked_sub((ENTRY + entry.name_len) as u64)
                    .ok_or_else(|| damaged("a truncated directory listing"))?;
                if entry.name_len > MAX_NAME {
                    return Err(damaged("a name that is too long"));
                }
                let mut name = vec![0; entry.name_len];
                cursor.fill(&mut name)?;
                if !is_name(&name) {
                    return Err(damaged("an invalid file name"));
                }
                if entries.last().is_some_and(|last| last.name >= name) {
                    return Err(damaged("names that are not sorted, or a duplicate name"));
                }
                let inode = Reference::new(header.inode_block.into(), entry.inode_offset);
                entries.push(DirEntry { name, inode });
            }
        }
        Ok(entries)
    }
}

/// False for names that would lead out of their directory, or that no system call takes.
fn is_name(name: &[u8]) -> bool {
    name != b"." && name != b".." && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}
