//! The extended attributes of an image: equal sets are stored once, and so are equal long values.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::Error;
use super::metadata::Table;
use super::sink::Sink;
use crate::codec::Encoder;
use crate::format::superblock::ABSENT;
use crate::format::xattr::{NONE, OUT_OF_LINE, Set, split};
use linux::xattrs::Xattrs;

/// The longest that the kernel gives and takes (XATTR_NAME_MAX, XATTR_SIZE_MAX of linux/limits.h).
const LONGEST_NAME: usize = 255;
const LONGEST_VALUE: usize = 65536;

/// Values of at least this length are stored once: a reference takes 8 bytes and its length 4.
const SHARED_VALUE: usize = 32;

type Key = [u8; 32];

/// Gathers sets. Known ones are found by a cryptographic hash, so that the sets need not be kept.
#[derive(Default)]
pub(super) struct Attributes {
    entries: Table,
    sets: Table,
    count: u32,
    known: HashMap<Key, u32>,
    values: HashMap<Key, u64>,
    /// Attributes that squashfs has no place for.
    pub skipped: u64,
}

impl Attributes {
    /// The number of the set, for an inode.
    pub(super) fn add(&mut self, mut xattrs: Xattrs, encoder: &mut Encoder) -> Result<u32, Error> {
        let all = xattrs.len();
        xattrs.retain(|(name, value)| {
            let fits = name.len() <= LONGEST_NAME && value.len() <= LONGEST_VALUE;
            fits && split(name).is_some()
        });
        self.skipped += (all - xattrs.len()) as u64;
        if xattrs.is_empty() {
            return Ok(NONE);
        }
        xattrs.sort_unstable();
        let key = set_key(&xattrs);
        if let Some(number) = self.known.get(&key) {
            return Ok(*number);
        }
        let number = self.count;
        self.write_set(&xattrs, encoder)?;
        self.known.insert(key, number);
        self.count = number
            .checked_add(1)
            .filter(|count| *count < NONE)
            .ok_or(Error::TooLarge { what: "number of attribute sets" })?;
        Ok(number)
    }

    fn write_set(&mut self, xattrs: &Xattrs, encoder: &mut Encoder) -> Result<(), Error> {
        let reference = self.entries.reference().0;
        let mut size = 0;
        for (name, value) in xattrs {
            let (kind, rest) = split(name).expect("other namespaces were skipped above");
            let key = (value.len() >= SHARED_VALUE).then(|| Sha256::digest(value).into());
            let known = key.and_then(|key: Key| self.values.get(&key)).copied();
            let mut entry = Vec::with_capacity(rest.len() + 16);
            let kind = if known.is_some() { kind | OUT_OF_LINE } else { kind };
            entry.extend_from_slice(&kind.to_le_bytes());
            entry.extend_from_slice(&(rest.len() as u16).to_le_bytes());
            entry.extend_from_slice(rest);
            self.entries.write(&entry, encoder)?;
            size += entry.len();
            let place = self.entries.reference().0;
            let stored = known.map_or(value.clone(), |at| at.to_le_bytes().to_vec());
            self.entries.write(&(stored.len() as u32).to_le_bytes(), encoder)?;
            self.entries.write(&stored, encoder)?;
            size += 4 + stored.len();
            if let (Some(key), None) = (key, known) {
                self.values.insert(key, place);
            }
        }
        let set = Set { reference, count: xattrs.len() as u32, size: size as u32 };
        self.sets.write(&set.encode(), encoder)
    }

    /// Writes the tables; the position for the superblock.
    pub(super) fn finish(self, sink: &mut Sink, encoder: &mut Encoder) -> Result<u64, Error> {
        if self.count == 0 {
            return Ok(ABSENT);
        }
        let start = sink.position();
        sink.write(&self.entries.finish(encoder)?.0)?;
        let (sets, starts) = self.sets.finish(encoder)?;
        let sets_start = sink.position();
        sink.write(&sets)?;
        let table = sink.position();
        sink.write(&start.to_le_bytes())?;
        sink.write(&self.count.to_le_bytes())?;
        sink.write(&[0; 4])?;
        for block in starts {
            sink.write(&(sets_start + block).to_le_bytes())?;
        }
        Ok(table)
    }
}

fn set_key(xattrs: &Xattrs) -> Key {
    let mut hasher = Sha256::new();
    for (name, value) in xattrs {
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name);
        hasher.update((value.len() as u64).to_le_bytes());
        hasher.update(value);
    }
    hasher.finalize().into()
}
