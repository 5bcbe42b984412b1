//! Metadata blocks, unpacked and cached; and a cursor that reads across them.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Error;
use super::image::read_at;
use crate::codec::Decoder;
use crate::format::metadata::{BLOCK, HEADER, Header, Reference};
use crate::format::{Fill, Superblock};

/// Unpacked blocks that are kept: 16 MiB.
const CACHED: usize = 2048;

/// An unpacked metadata block.
pub(super) struct Block {
    /// Never empty.
    pub data: Vec<u8>,
    /// Byte offset of the block behind it.
    pub next: u64,
}

/// Reads metadata blocks of one image.
pub(super) struct Metadata {
    file: File,
    bytes_used: u64,
    state: Mutex<State>,
}

struct State {
    decoder: Decoder,
    blocks: HashMap<u64, Arc<Block>>,
    /// Positions in the order in which they came into `blocks`.
    order: VecDeque<u64>,
}

impl Metadata {
    pub(super) fn new(file: File, superblock: &Superblock) -> Result<Self, Error> {
        let decoder = Decoder::new(superblock.compressor)?;
        let state = State { decoder, blocks: HashMap::new(), order: VecDeque::new() };
        Ok(Self { file, bytes_used: superblock.bytes_used, state: Mutex::new(state) })
    }

    /// The block at a byte offset of the image.
    pub(super) fn block(&self, position: u64) -> Result<Arc<Block>, Error> {
        let mut state = self.lock();
        if let Some(block) = state.blocks.get(&position) {
            return Ok(block.clone());
        }
        let block = Arc::new(self.load(position, &mut state.decoder)?);
        if state.order.len() >= CACHED
            && let Some(oldest) = state.order.pop_front()
        {
            state.blocks.remove(&oldest);
        }
        state.order.push_back(position);
        state.blocks.insert(position, block.clone());
        Ok(block)
    }

    fn load(&self, position: u64, decoder: &mut Decoder) -> Result<Block, Error> {
        let outside = || Error::damaged("a metadata block outside of the image", position);
        let body = position
            .checked_add(HEADER as u64)
            .filter(|body| *body <= self.bytes_used)
            .ok_or_else(outside)?;
        let mut header = [0; HEADER];
        read_at(&self.file, &mut header, position)?;
        let header = Header::parse(header);
        let stored = usize::from(header.stored);
        let next = body + stored as u64;
        if next > self.bytes_used {
            return Err(outside());
        }
        if stored == 0 || stored > BLOCK {
            return Err(Error::damaged("a metadata block of impossible length", position));
        }
        let mut bytes = vec![0; stored];
        read_at(&self.file, &mut bytes, body)?;
        if header.raw {
            return Ok(Block { data: bytes, next });
        }
        let mut data = vec![0; BLOCK];
        let length = decoder
            .decode(&bytes, &mut data)
            .map_err(|source| Error::Block { position, source })?;
        if length == 0 {
            return Err(Error::damaged("an empty metadata block", position));
        }
        data.truncate(length);
        Ok(Block { data, next })
    }

    /// A thread that panicked while it held the cache leaves nothing half done in it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads on from a place in a table, block after block.
pub(super) struct Cursor<'a> {
    metadata: &'a Metadata,
    block: Arc<Block>,
    /// Byte offset of the current block in the image.
    position: u64,
    offset: usize,
    table: u64,
    /// No block starts here or behind.
    end: u64,
}

impl<'a> Cursor<'a> {
    /// Starts at `at` in the table at byte `table`, which ends at byte `end`.
    pub(super) fn new(
        metadata: &'a Metadata,
        table: u64,
        at: Reference,
        end: u64,
    ) -> Result<Self, Error> {
        let outside = || Error::damaged("a reference outside of its table", table);
        let position = table.checked_add(at.block()).filter(|it| *it < end).ok_or_else(outside)?;
        let block = metadata.block(position)?;
        let offset = at.offset();
        // The end of a full block is where an empty listing at its end is said to be.
        if offset > block.data.len() {
            return Err(outside());
        }
        Ok(Self { metadata, block, position, offset, table, end })
    }

    /// The place of the next byte.
    pub(super) fn place(&mut self) -> Result<Reference, Error> {
        self.advance()?;
        Ok(Reference::new(self.position - self.table, self.offset as u16))
    }

    fn advance(&mut self) -> Result<(), Error> {
        if self.offset < self.block.data.len() {
            return Ok(());
        }
        let next = self.block.next;
        if next >= self.end {
            return Err(Error::damaged("a table ends too early", next));
        }
        self.block = self.metadata.block(next)?;
        (self.position, self.offset) = (next, 0);
        Ok(())
    }
}

impl Fill for Cursor<'_> {
    type Error = Error;

    fn fill(&mut self, mut buffer: &mut [u8]) -> Result<(), Error> {
        while !buffer.is_empty() {
            self.advance()?;
            let data = &self.block.data[self.offset..];
            let length = data.len().min(buffer.len());
            let (now, later) = buffer.split_at_mut(length);
            now.copy_from_slice(&data[..length]);
            self.offset += length;
            buffer = later;
        }
        Ok(())
    }
}
