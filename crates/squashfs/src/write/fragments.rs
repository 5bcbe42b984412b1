//! Packs tails one behind the other into fragment blocks.

use super::Error;
use crate::format::inode::Tail;

/// The fragment that is being filled.
pub(super) struct Fragments {
    open: Vec<u8>,
    /// Number that the open fragment will have.
    number: u32,
    block_size: usize,
}

impl Fragments {
    /// `first` is the number of the first new fragment: those before it are a base image's.
    pub(super) fn new(first: u32, block_size: u32) -> Self {
        Self { open: Vec::new(), number: first, block_size: block_size as usize }
    }

    /// True if so many more bytes need another fragment first.
    pub(super) fn is_full_for(&self, length: usize) -> bool {
        self.open.len() + length > self.block_size
    }

    /// Where the bytes come to lie. The caller has made room.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Tail {
        let tail = Tail { fragment: self.number, offset: self.open.len() as u32 };
        self.open.extend_from_slice(bytes);
        tail
    }

    /// Takes the open fragment, if it holds anything, and starts the next.
    pub(super) fn take(&mut self) -> Result<Option<Vec<u8>>, Error> {
        if self.open.is_empty() {
            return Ok(None);
        }
        self.number = self
            .number
            .checked_add(1)
            .filter(|number| *number < u32::MAX)
            .ok_or(Error::TooLarge { what: "number of fragments" })?;
        let next = Vec::with_capacity(self.block_size);
        Ok(Some(std::mem::replace(&mut self.open, next)))
    }
}
