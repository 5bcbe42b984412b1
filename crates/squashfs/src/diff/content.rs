//! Compares the content of files in two images with as little unpacking as can be.

use super::super::read::{BlockReader, Error, Image};
use super::super::reuse::Range;
use crate::format::inode::{File, Tail};

/// Readers of both images.
pub(super) struct Contents<'a> {
    old: &'a Image,
    new: &'a Image,
    old_reader: BlockReader<'a>,
    new_reader: BlockReader<'a>,
    known: &'a [Range],
    /// Blocks of both mean the same when their stored bytes are equal.
    comparable: bool,
}

impl<'a> Contents<'a> {
    pub(super) fn new(old: &'a Image, new: &'a Image, known: &'a [Range]) -> Result<Self, Error> {
        let form = |image: &Image| (image.compressor(), image.superblock().block_size);
        Ok(Self {
            old,
            new,
            old_reader: BlockReader::new(old)?,
            new_reader: BlockReader::new(new)?,
            known,
            comparable: form(old) == form(new),
        })
    }

    /// True if both files have the same bytes.
    pub(super) fn same(&mut self, old: &File, new: &File) -> Result<bool, Error> {
        if old.size != new.size {
            return Ok(false);
        }
        if self.comparable && old.blocks == new.blocks && old.tail.is_some() == new.tail.is_some() {
            return Ok(self.same_blocks(old, new)? && self.same_tails(old, new)?);
        }
        self.same_unpacked(old, new)
    }

    /// Blocks of equal lengths on disk: equal bytes there are equal content, and a block that differs
    /// there is unpacked.
    fn same_blocks(&mut self, old: &File, new: &File) -> Result<bool, Error> {
        if self.is_known(old.start, new.start, old.stored()) {
            return Ok(true);
        }
        let block_size = u64::from(self.old.superblock().block_size);
        let (mut at, mut left) = (0, old.size);
        for word in &old.blocks {
            let length = left.min(block_size);
            left -= length;
            if word.is_sparse() {
                continue;
            }
            let (a, b) = (old.start.saturating_add(at), new.start.saturating_add(at));
            at += u64::from(word.stored());
            if self.old_reader.stored(a, *word)? == self.new_reader.stored(b, *word)? {
                continue;
            }
            let (mut x, mut y) = (vec![0; length as usize], vec![0; length as usize]);
            self.old_reader.exact_block(a, *word, &mut x)?;
            self.new_reader.exact_block(b, *word, &mut y)?;
            if x != y {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn same_tails(&mut self, old: &File, new: &File) -> Result<bool, Error> {
        let (Some(a), Some(b)) = (old.tail, new.tail) else {
            return Ok(true);
        };
        if self.tail_is_known(a, b)? {
            return Ok(true);
        }
        let in_blocks = old.blocks.len() as u64 * u64::from(self.old.superblock().block_size);
        let length = (old.size - in_blocks.min(old.size)) as u32;
        Ok(self.old_reader.tail(a, length)? == self.new_reader.tail(b, length)?)
    }

    fn tail_is_known(&self, old: Tail, new: Tail) -> Result<bool, Error> {
        let (a, b) = (self.old.fragment(old.fragment)?, self.new.fragment(new.fragment)?);
        Ok(old.offset == new.offset
            && a.word == b.word
            && self.is_known(a.start, b.start, a.word.stored().into()))
    }

    /// True if the new image's bytes were copied from the old one's.
    fn is_known(&self, old: u64, new: u64, length: u64) -> bool {
        let next = self.known.partition_point(|range| range.base <= old);
        let range = next.checked_sub(1).and_then(|index| self.known.get(index));
        range.is_some_and(|range| {
            let offset = old - range.base;
            offset + length <= range.length && range.new + offset == new
        })
    }

    /// The general case: other blocks, another compressor.
    fn same_unpacked(&mut self, old: &File, new: &File) -> Result<bool, Error> {
        let mut a = Stream::new(old, self.old.superblock().block_size);
        let mut b = Stream::new(new, self.new.superblock().block_size);
        let mut left = old.size;
        while left > 0 {
            let (x, y) = (a.fill(&mut self.old_reader)?, b.fill(&mut self.new_reader)?);
            let length = x.len().min(y.len());
            if x[..length] != y[..length] {
                return Ok(false);
            }
            a.position += length;
            b.position += length;
            left -= length as u64;
        }
        Ok(true)
    }
}

/// The content of one file in order, a block at a time.
struct Stream<'a> {
    file: &'a File,
    block_size: u64,
    next: usize,
    start: u64,
    offset: u64,
    buffer: Vec<u8>,
    position: usize,
}

impl<'a> Stream<'a> {
    fn new(file: &'a File, block_size: u32) -> Self {
        let block_size = u64::from(block_size);
        let (next, start, offset, buffer, position) = (0, file.start, 0, Vec::new(), 0);
        Self { file, block_size, next, start, offset, buffer, position }
    }

    /// What is left of the current block, or the next one; never empty before the file's end.
    fn fill(&mut self, reader: &mut BlockReader) -> Result<&[u8], Error> {
        if self.position == self.buffer.len() {
            let length = self.block_size.min(self.file.size - self.offset);
            self.position = 0;
            match (self.file.blocks.get(self.next), self.file.tail) {
                (Some(word), _) => {
                    self.buffer.clear();
                    self.buffer.resize(length as usize, 0);
                    if !word.is_sparse() {
                        reader.exact_block(self.start, *word, &mut self.buffer)?;
                    }
                    self.start = self.start.saturating_add(word.stored().into());
                    self.next += 1;
                }
                (None, Some(tail)) => self.buffer = reader.tail(tail, length as u32)?,
                (None, None) => {
                    return Err(Error::Damaged { what: "a file without blocks", position: 0 });
                }
            }
            self.offset += length;
        }
        Ok(&self.buffer[self.position..])
    }
}
