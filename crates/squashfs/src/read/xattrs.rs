//! Reads sets of extended attributes.

use std::fs::File;

use super::Error;
use super::image::{Image, block_list, read_at};
use super::metadata::Cursor;
use crate::format::metadata::{BLOCK, Reference};
use crate::format::superblock::ABSENT;
use crate::format::xattr::{NONE, OUT_OF_LINE, SET_SIZE, Set, prefix};
use crate::format::{Fill, Superblock, u32_at, u64_at};
use linux::xattrs::Xattrs;

/// Longest value and most bytes of names that Linux has; no set is bigger.
const MAX_VALUE: usize = 65536;
const MAX_COUNT: u32 = 65536;
/// Most bytes of one set that are believed.
const MAX_SET: usize = 1 << 24;

/// Where the attributes' tables are.
pub(super) struct Table {
    /// Of the entries.
    start: u64,
    count: u32,
    /// Of the sets.
    blocks: Vec<u64>,
    position: u64,
}

impl Table {
    pub(super) fn open(file: &File, superblock: &Superblock) -> Result<Option<Self>, Error> {
        let position = superblock.xattr_table;
        if position == ABSENT {
            return Ok(None);
        }
        let list = position.checked_add(16).filter(|list| *list <= superblock.bytes_used);
        let list = list.ok_or(Error::damaged("the attribute table is truncated", position))?;
        let mut head = [0; 16];
        read_at(file, &mut head, position)?;
        let (start, count) = (u64_at(&head, 0), u32_at(&head, 8));
        if start > position {
            return Err(Error::damaged("attributes outside of their table", start));
        }
        let blocks = block_list(file, superblock, list, u64::from(count) * SET_SIZE as u64)?;
        Ok(Some(Self { start, count, blocks, position }))
    }
}

/// Reads set `number`.
pub(super) fn read(image: &Image, number: u32) -> Result<Xattrs, Error> {
    if number == NONE {
        return Ok(Vec::new());
    }
    // Images made without attributes may number sets all the same: the kernel ignores them too.
    let Some(table) = &image.xattrs else {
        return Ok(Vec::new());
    };
    let set = find(image, table, number)?;
    if set.count > MAX_COUNT {
        return Err(Error::damaged("a set of too many attributes", table.position));
    }
    let mut cursor = cursor(image, table, set.reference)?;
    let (mut xattrs, mut bytes) = (Vec::new(), 0);
    for _ in 0..set.count {
        let (name, value) = entry(image, table, &mut cursor)?;
        bytes += name.len() + value.len();
        if bytes > MAX_SET {
            return Err(Error::damaged("a set of too many attributes", table.position));
        }
        xattrs.push((name, value));
    }
    Ok(xattrs)
}

fn find(image: &Image, table: &Table, number: u32) -> Result<Set, Error> {
    let per_block = (BLOCK / SET_SIZE) as u32;
    let block = table
        .blocks
        .get((number / per_block) as usize)
        .filter(|_| number < table.count)
        .ok_or(Error::damaged("attributes that are not in the table", table.position))?;
    let offset = (number % per_block) as u16 * SET_SIZE as u16;
    let at = Reference::new(0, offset);
    let mut bytes = [0; SET_SIZE];
    Cursor::new(&image.metadata, *block, at, table.position)?.fill(&mut bytes)?;
    Ok(Set::parse(&bytes))
}

fn entry(image: &Image, table: &Table, from: &mut Cursor) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let kind = u16::from_le_bytes(from.take()?);
    let length = u16::from_le_bytes(from.take()?);
    let prefix =
        prefix(kind).ok_or(Error::damaged("an attribute of unknown kind", table.position))?;
    let mut name = vec![0; usize::from(length)];
    from.fill(&mut name)?;
    let name = [prefix, &name].concat();
    let mut value = value(from, table)?;
    if kind & OUT_OF_LINE != 0 {
        let reference: [u8; 8] = value
            .try_into()
            .map_err(|_| Error::damaged("a bad attribute reference", table.position))?;
        value = self::value(&mut cursor(image, table, u64::from_le_bytes(reference))?, table)?;
    }
    Ok((name, value))
}

fn value(from: &mut Cursor, table: &Table) -> Result<Vec<u8>, Error> {
    let length = u32::from_le_bytes(from.take()?) as usize;
    if length > MAX_VALUE {
        return Err(Error::damaged("an attribute value that is too long", table.position));
    }
    let mut value = vec![0; length];
    from.fill(&mut value)?;
    Ok(value)
}

fn cursor<'a>(image: &'a Image, table: &Table, reference: u64) -> Result<Cursor<'a>, Error> {
    Cursor::new(&image.metadata, table.start, Reference(reference), table.position)
}
