//! Writes directory listings, with an index for those that span metadata blocks.

use super::Error;
use super::metadata::Table;
use crate::codec::Encoder;
use crate::format::directory::SIZE_EXTRA;
use crate::format::directory::{ENTRY, Entry, HEADER, Header, IndexEntry, MAX_RUN};
use crate::format::inode::Directory;
use crate::format::metadata::{BLOCK, Reference};

/// Most entries of an index: their number is stored in 16 bits.
const MAX_INDEX: usize = u16::MAX as usize;

/// The entries of a directory while its content is written; names in one piece of memory.
#[derive(Default)]
pub(super) struct Listing {
    names: Vec<u8>,
    entries: Vec<Child>,
}

struct Child {
    /// Where the name ends in `names`; it starts where the one before ends.
    name_end: u32,
    number: u32,
    kind: u16,
    inode: Reference,
}

impl Listing {
    /// Adds a name; names come in byte order.
    pub(super) fn push(&mut self, name: &[u8], number: u32, kind: u16, inode: Reference) {
        self.names.extend_from_slice(name);
        self.entries.push(Child { name_end: self.names.len() as u32, number, kind, inode });
    }

    fn name(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.entries[index - 1].name_end as usize };
        &self.names[start..self.entries[index].name_end as usize]
    }

    /// Writes the listing to the directory table; the directory's part of the inode.
    pub(super) fn write(
        &self,
        parent: u32,
        table: &mut Table,
        encoder: &mut Encoder,
    ) -> Result<Directory, Error> {
        let start = table.reference();
        let mut index = Vec::new();
        let mut length = 0usize;
        let mut indexed = 0usize;
        let mut run = Vec::new();
        let mut at = 0;
        while at < self.entries.len() {
            // A run starts in a block of which the index does not know yet.
            let least = length - indexed + HEADER + ENTRY + self.name(at).len();
            if least > BLOCK && index.len() < MAX_INDEX {
                let block = narrow(table.reference().block(), "directory table")?;
                let name = self.name(at).to_vec();
                index.push(IndexEntry { position: length as u32, block, name });
                indexed = length;
            }
            let room = if index.len() < MAX_INDEX { BLOCK - (length - indexed) } else { BLOCK };
            at = self.encode_run(at, room, &mut run)?;
            table.write(&run, encoder)?;
            length += run.len();
        }
        let size = u32::try_from(length)
            .ok()
            .and_then(|length| length.checked_add(SIZE_EXTRA))
            .ok_or(Error::TooLarge { what: "a directory's listing" })?;
        let block = narrow(start.block(), "directory table")?;
        Ok(Directory { block, offset: start.offset() as u16, size, parent, index })
    }

    /// Encodes the entries from `first` that can share a header and fit in `room` bytes (one always
    /// does); where the next run starts.
    fn encode_run(&self, first: usize, room: usize, run: &mut Vec<u8>) -> Result<usize, Error> {
        let head = &self.entries[first];
        run.clear();
        run.resize(HEADER, 0);
        let mut at = first;
        while let Some(child) = self.entries.get(at) {
            let name = self.name(at);
            let delta = i16::try_from(i64::from(child.number) - i64::from(head.number));
            let (Ok(number_delta), true) = (delta, child.inode.block() == head.inode.block())
            else {
                break;
            };
            let full = at - first == MAX_RUN || run.len() + ENTRY + name.len() > room;
            if full && at > first {
                break;
            }
            let inode_offset = child.inode.offset() as u16;
            let entry =
                Entry { inode_offset, number_delta, kind: child.kind, name_len: name.len() };
            run.extend_from_slice(&entry.encode());
            run.extend_from_slice(name);
            at += 1;
        }
        let header = Header {
            count: (at - first) as u32,
            inode_block: narrow(head.inode.block(), "inode table")?,
            inode_number: head.number,
        };
        run[..HEADER].copy_from_slice(&header.encode());
        Ok(at)
    }
}

fn narrow(position: u64, what: &'static str) -> Result<u32, Error> {
    u32::try_from(position).map_err(|_| Error::TooLarge { what })
}
