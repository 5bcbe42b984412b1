//! Unpacks data blocks and fragments.

use std::sync::Arc;

use super::Error;
use super::image::{Image, read_at};
use crate::codec::Decoder;
use crate::format::block::BlockWord;
use crate::format::inode::{File, Tail};

/// Reads the content of files; one for each thread, as it holds a decoder and the last fragment.
pub struct BlockReader<'a> {
    image: &'a Image,
    decoder: Decoder,
    /// A block as it is stored. This and `unpacked` only grow: clearing them for each block takes time.
    stored: Vec<u8>,
    /// A block of the file that is read.
    unpacked: Vec<u8>,
    fragment: Option<(u32, Arc<Vec<u8>>)>,
}

impl<'a> BlockReader<'a> {
    /// A reader of blocks of `image`.
    pub fn new(image: &'a Image) -> Result<Self, Error> {
        let decoder = Decoder::new(image.compressor())?;
        Ok(Self { image, decoder, stored: Vec::new(), unpacked: Vec::new(), fragment: None })
    }

    /// Reads the bytes of a block as they are stored.
    pub(crate) fn stored(&mut self, start: u64, word: BlockWord) -> Result<&[u8], Error> {
        let superblock = self.image.superblock();
        let end = start.checked_add(word.stored().into());
        if end.is_none_or(|end| end > superblock.bytes_used) {
            return Err(Error::damaged("a data block outside the image", start));
        }
        if word.stored() > superblock.block_size {
            return Err(Error::damaged("a data block longer than its content", start));
        }
        let stored = grown(&mut self.stored, word.stored() as usize);
        read_at(&self.image.file, stored, start)?;
        Ok(stored)
    }

    /// Unpacks the block at byte `start` to the start of `out`; how many bytes it has.
    pub fn block(&mut self, start: u64, word: BlockWord, out: &mut [u8]) -> Result<usize, Error> {
        let length = self.stored(start, word)?.len();
        let stored = &self.stored[..length];
        if !word.is_raw() {
            return self
                .decoder
                .decode(stored, out)
                .map_err(|source| Error::Block { position: start, source });
        }
        let room = out
            .get_mut(..length)
            .ok_or(Error::damaged("a data block longer than its content", start))?;
        room.copy_from_slice(stored);
        Ok(length)
    }

    /// Unpacks a fragment; the last one is kept.
    pub fn fragment(&mut self, number: u32) -> Result<Arc<Vec<u8>>, Error> {
        if let Some((last, bytes)) = &self.fragment
            && *last == number
        {
            return Ok(bytes.clone());
        }
        let fragment = self.image.fragment(number)?;
        let mut bytes = vec![0; self.image.superblock().block_size as usize];
        let length = self.block(fragment.start, fragment.word, &mut bytes)?;
        bytes.truncate(length);
        let bytes = Arc::new(bytes);
        self.fragment = Some((number, bytes.clone()));
        Ok(bytes)
    }

    /// The bytes of a file's tail.
    pub fn tail(&mut self, tail: Tail, length: u32) -> Result<Vec<u8>, Error> {
        let fragment = self.fragment(tail.fragment)?;
        let start = tail.offset as usize;
        start
            .checked_add(length as usize)
            .and_then(|end| fragment.get(start..end))
            .map(<[u8]>::to_vec)
            .ok_or(Error::damaged("a tail outside its fragment", tail.offset.into()))
    }

    /// Gives the content of a file block by block to `take`: offset in the file and bytes. Holes are
    /// left out.
    pub fn file<E: From<Error>>(
        &mut self,
        file: &File,
        take: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut out = std::mem::take(&mut self.unpacked);
        let read = self.file_through(&mut out, file, take);
        self.unpacked = out;
        read
    }

    fn file_through<E: From<Error>>(
        &mut self,
        out: &mut Vec<u8>,
        file: &File,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let block_size = u64::from(self.image.superblock().block_size);
        let (mut start, mut offset) = (file.start, 0);
        for word in &file.blocks {
            let expected = block_size.min(file.size - offset) as usize;
            if !word.is_sparse() {
                let out = grown(out, expected);
                self.exact_block(start, *word, out)?;
                take(offset, out)?;
            }
            start += u64::from(word.stored());
            offset += expected as u64;
        }
        if let Some(tail) = file.tail {
            let length = (file.size - offset) as u32;
            take(offset, &self.tail(tail, length)?)?;
        }
        Ok(())
    }

    /// Unpacks a block that must fill `out`.
    pub fn exact_block(
        &mut self,
        start: u64,
        word: BlockWord,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let length = self.block(start, word, out)?;
        if length == out.len() {
            Ok(())
        } else {
            Err(Error::damaged("a data block with too few bytes", start))
        }
    }
}

/// The first `length` bytes of a buffer that is kept from one use to the next.
pub(crate) fn grown(buffer: &mut Vec<u8>, length: usize) -> &mut [u8] {
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    &mut buffer[..length]
}
