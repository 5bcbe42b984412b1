//! The small tables at an image's end: ids, fragments, and the places of all inodes.

use std::collections::HashMap;

use super::Error;
use super::metadata::Table;
use super::sink::Sink;
use crate::codec::Encoder;

/// Owners and groups, each number stored once.
#[derive(Default)]
pub(super) struct Ids {
    ids: Vec<u32>,
    known: HashMap<u32, u16>,
}

impl Ids {
    /// The index of a uid or gid.
    pub(super) fn add(&mut self, id: u32) -> Result<u16, Error> {
        if let Some(index) = self.known.get(&id) {
            return Ok(*index);
        }
        let index = u16::try_from(self.ids.len())
            .ok()
            .filter(|index| *index < u16::MAX)
            .ok_or(Error::TooLarge { what: "number of owners and groups" })?;
        self.ids.push(id);
        self.known.insert(id, index);
        Ok(index)
    }

    pub(super) fn count(&self) -> u16 {
        self.ids.len() as u16
    }

    pub(super) fn finish(self, sink: &mut Sink, encoder: &mut Encoder) -> Result<u64, Error> {
        lookup_table(self.ids.iter().map(|id| id.to_le_bytes()), sink, encoder)
    }
}

/// Writes fixed-size entries in metadata blocks and behind them where each block is; the position of
/// that list, for the superblock.
pub(super) fn lookup_table<const N: usize>(
    entries: impl Iterator<Item = [u8; N]>,
    sink: &mut Sink,
    encoder: &mut Encoder,
) -> Result<u64, Error> {
    let mut table = Table::default();
    for entry in entries {
        table.write(&entry, encoder)?;
    }
    let (packed, starts) = table.finish(encoder)?;
    let base = sink.position();
    sink.write(&packed)?;
    let position = sink.position();
    for start in starts {
        sink.write(&(base + start).to_le_bytes())?;
    }
    Ok(position)
}
