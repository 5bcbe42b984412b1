//! Contents that streamed by before there was a name for them: where each of them is.
//!
//! A stream cannot be read a second time to compare bytes, so that equal short
//! contents are found by a cryptographic hash.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::event::Data;
use crate::format::inode::Tail;

/// Where a content is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// All of it in a fragment; nowhere if it is empty.
    Small { size: u32, tail: Option<Tail> },
    /// In blocks: its number among the files with blocks.
    Blocks(u32),
}

impl Place {
    /// The content as the writer takes it.
    pub(super) fn data(self) -> Data {
        match self {
            Self::Small { size, tail } => Data::New { size: size.into(), tail, check: None },
            Self::Blocks(blocks_of) => Data::Same { blocks_of },
        }
    }
}

/// All contents, numbered in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Stored {
    places: Vec<Place>,
    tails: HashMap<[u8; 32], Tail>,
}

impl Stored {
    pub(super) fn add(&mut self, place: Place) {
        self.places.push(place);
    }

    pub(super) fn get(&self, content: u32) -> Option<Place> {
        self.places.get(content as usize).copied()
    }

    /// Where the same bytes are.
    pub(super) fn known(&self, bytes: &[u8]) -> Option<Tail> {
        self.tails.get(&<[u8; 32]>::from(Sha256::digest(bytes))).copied()
    }

    pub(super) fn remember(&mut self, bytes: &[u8], tail: Tail) {
        self.tails.insert(Sha256::digest(bytes).into(), tail);
    }
}
