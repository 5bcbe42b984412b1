//! Decides, in the order of the walk, where each file's content goes: a fragment, blocks of its own,
//! or where a duplicate of it already is.

use std::collections::HashMap;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::Error;
use super::duplicates::Duplicates;
use super::event::{Batch, Data, Event, Item, Kept, Named, OldTail};
use super::fragments::Fragments;
use super::source::{Bytes, Content, SourceFile};
use super::stored::{Place, Stored};
use super::worker::Work;
use crate::format::inode::{File, Tail};

/// The planner's state while it runs.
pub(super) struct Planner<'a> {
    pub work: Sender<Work>,
    pub items: Sender<Item>,
    pub duplicates: Duplicates<'a>,
    pub fragments: Fragments,
    pub block_size: u32,
    /// Where the tails of the base's files went whose fragments did not stay.
    pub rescued: HashMap<OldTail, Tail>,
    /// Where the contents went that streamed by.
    pub stored: Stored,
    /// Files with blocks so far; such a file's number is what `Data::Same` names.
    pub with_blocks: u32,
    /// Files that are the same as an earlier one.
    pub found: u64,
}

impl Planner<'_> {
    /// Plans all batches; how many duplicates there were.
    pub(super) fn run(mut self, batches: Receiver<Batch>) -> Result<u64, Error> {
        for batch in batches {
            let contents = match batch.contents {
                Some(slot) => slot.recv()??,
                None => Vec::new(),
            };
            let mut contents = contents.into_iter();
            for event in batch.events {
                self.event(event, &mut contents)?;
            }
        }
        self.flush_fragment()?;
        Ok(self.found)
    }

    fn event(
        &mut self,
        event: Event,
        contents: &mut impl Iterator<Item = Content>,
    ) -> Result<(), Error> {
        let item = match event {
            Event::Enter(named) => Item::Enter(named),
            Event::Leave => Item::Leave,
            Event::Special(named, special) => Item::Special(named, special),
            Event::Link { name, number } => Item::Link { name, number },
            Event::Kept(named, kept) => Item::File(named, Data::Ready(self.kept(kept)?)),
            Event::Rescued { old, bytes } => {
                let tail = self.tail(&bytes)?;
                self.rescued.insert(old, tail);
                return Ok(());
            }
            Event::Block(bytes) => return self.block(bytes),
            Event::Hole { blocks, bytes } => Item::Hole { blocks, bytes },
            Event::EndOfBlocks { size } => {
                self.stored.add(Place::Blocks(self.with_blocks));
                self.with_blocks += 1;
                Item::Blocks { size }
            }
            Event::Small(bytes) => return self.store_small(&bytes),
            Event::Stored(named, content) => {
                let place = self.stored.get(content).ok_or(Error::Interrupted)?;
                Item::File(named, place.data())
            }
            Event::File(mut named) => {
                let content = contents.next().ok_or(Error::Interrupted)?;
                named.attributes.xattrs = content.xattrs;
                match content.bytes {
                    Bytes::Whole { bytes, hash } => {
                        let data = self.small(&content.request, &bytes, hash)?;
                        Item::File(named, data)
                    }
                    Bytes::Open(source) => return self.large(named, &content.request, source),
                }
            }
        };
        Ok(self.items.send(item)?)
    }

    fn kept(&self, kept: Kept) -> Result<File, Error> {
        let mut file = kept.file;
        if let Some(old) = kept.rescued {
            let tail = self.rescued.get(&old).ok_or(Error::Interrupted)?;
            file.tail = Some(*tail);
        }
        Ok(file)
    }

    fn small(
        &mut self,
        request: &super::source::Request,
        bytes: &[u8],
        hash: u64,
    ) -> Result<Data, Error> {
        let size = bytes.len() as u64;
        if bytes.is_empty() {
            return Ok(Data::New { size, tail: None, check: None });
        }
        let tail = match self.duplicates.find_small(bytes, hash)? {
            Some(tail) => {
                self.found += 1;
                tail
            }
            None => {
                let tail = self.tail(bytes)?;
                self.duplicates.add_small(&request.place, &request.name, bytes.len(), hash, tail);
                tail
            }
        };
        Ok(Data::New { size, tail: Some(tail), check: None })
    }

    fn large(
        &mut self,
        named: Named,
        request: &super::source::Request,
        source: Arc<SourceFile>,
    ) -> Result<(), Error> {
        let size = source.size();
        if let Some(blocks_of) = self.duplicates.find_large(&source, self.block_size)? {
            self.found += 1;
            source.check()?;
            return Ok(self.items.send(Item::File(named, Data::Same { blocks_of }))?);
        }
        self.duplicates.add_large(&request.place, &request.name, size, self.with_blocks);
        self.with_blocks += 1;
        self.blocks(&source)?;
        let data = Data::New { size, tail: None, check: Some(source) };
        Ok(self.items.send(Item::File(named, data))?)
    }

    fn blocks(&self, source: &Arc<SourceFile>) -> Result<(), Error> {
        let block_size = u64::from(self.block_size);
        let size = source.size();
        let mut offset = 0;
        while offset < size {
            if source.has_holes() {
                let data = source.next_data(offset)?.unwrap_or(size);
                // The last, short block is a hole too if no data follows.
                let blocks = if data >= size {
                    (size - offset).div_ceil(block_size)
                } else {
                    (data - offset) / block_size
                };
                if blocks > 0 {
                    let bytes = (blocks * block_size).min(size - offset);
                    self.items.send(Item::Hole { blocks, bytes })?;
                    offset += bytes;
                    continue;
                }
            }
            let length = block_size.min(size - offset) as u32;
            let (done, slot) = crossbeam_channel::bounded(1);
            self.work.send(Work::Block { source: source.clone(), offset, length, done })?;
            self.items.send(Item::Block(slot))?;
            offset += u64::from(length);
        }
        Ok(())
    }

    fn block(&self, bytes: Vec<u8>) -> Result<(), Error> {
        let (done, slot) = crossbeam_channel::bounded(1);
        self.work.send(Work::Data { bytes, done })?;
        Ok(self.items.send(Item::Block(slot))?)
    }

    /// Puts a short content that streams by into a fragment, unless the same bytes are in one.
    fn store_small(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let size = bytes.len() as u32;
        let (tail, is_known) = match self.stored.known(bytes) {
            _ if bytes.is_empty() => (None, false),
            Some(tail) => (Some(tail), true),
            None => (Some(self.tail(bytes)?), false),
        };
        self.found += u64::from(is_known);
        if let Some(tail) = tail {
            self.stored.remember(bytes, tail);
        }
        self.stored.add(Place::Small { size, tail });
        Ok(())
    }

    /// Puts bytes into a fragment.
    fn tail(&mut self, bytes: &[u8]) -> Result<Tail, Error> {
        if self.fragments.is_full_for(bytes.len()) {
            self.flush_fragment()?;
        }
        Ok(self.fragments.add(bytes))
    }

    fn flush_fragment(&mut self) -> Result<(), Error> {
        if let Some(bytes) = self.fragments.take()? {
            let (done, slot) = crossbeam_channel::bounded(1);
            self.work.send(Work::Fragment { bytes, done })?;
            self.items.send(Item::Fragment(slot))?;
        }
        Ok(())
    }
}
