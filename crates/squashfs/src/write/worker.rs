//! The threads that read and compress. They take work from one bounded queue and never wait for
//! anybody when they hand in a result, so the pipeline cannot lock up.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::Error;
use super::source::{Content, Request, SourceFile};
use crate::codec::{Encoder, Settings};
use crate::format::block::BlockWord;

/// A piece of work; the result goes to `done`.
pub(crate) enum Work {
    /// Open files, and read the small ones.
    Read { requests: Vec<Request>, done: Sender<Result<Vec<Content>, Error>> },
    /// Read and compress one block of a file.
    Block { source: Arc<SourceFile>, offset: u64, length: u32, done: Sender<Result<Packed, Error>> },
    /// Compress one block of a file that was read elsewhere.
    Data { bytes: Vec<u8>, done: Sender<Result<Packed, Error>> },
    /// Compress a fragment block.
    Fragment { bytes: Vec<u8>, done: Sender<Result<Packed, Error>> },
}

/// A block as it goes into the image.
#[derive(Debug)]
pub(crate) struct Packed {
    pub bytes: Vec<u8>,
    pub word: BlockWord,
    /// Bytes of content in it.
    pub content: u32,
}

/// Works until the queue's senders are gone.
pub(crate) fn run(work: Receiver<Work>, settings: &Settings) -> Result<(), Error> {
    let mut encoder = Encoder::new(settings)?;
    let mut input = Vec::new();
    for work in work {
        // A result that nobody waits for any more: the pipeline is ending with an error.
        match work {
            Work::Read { requests, done } => {
                let contents =
                    requests.into_iter().map(|it| it.fetch(settings.block_size)).collect();
                let _ = done.send(contents);
            }
            Work::Block { source, offset, length, done } => {
                input.resize(length as usize, 0);
                let packed = source
                    .read_at(&mut input, offset)
                    .and_then(|()| pack_or_hole(&mut encoder, &input));
                let _ = done.send(packed);
            }
            Work::Data { bytes, done } => {
                let _ = done.send(pack_or_hole(&mut encoder, &bytes));
            }
            Work::Fragment { bytes, done } => {
                let _ = done.send(pack(&mut encoder, &bytes));
            }
        }
    }
    Ok(())
}

fn pack_or_hole(encoder: &mut Encoder, input: &[u8]) -> Result<Packed, Error> {
    if is_zero(input) { Ok(hole(input.len() as u32)) } else { pack(encoder, input) }
}

fn pack(encoder: &mut Encoder, input: &[u8]) -> Result<Packed, Error> {
    let content = input.len() as u32;
    let mut bytes = Vec::with_capacity(input.len());
    let raw = !encoder.encode(input, &mut bytes)?;
    if raw {
        bytes.clear();
        bytes.extend_from_slice(input);
    }
    bytes.shrink_to_fit();
    let word = BlockWord::new(bytes.len() as u32, raw);
    Ok(Packed { bytes, word, content })
}

/// A block of zeros takes no place in the image.
fn hole(length: u32) -> Packed {
    Packed { bytes: Vec::new(), word: BlockWord::SPARSE, content: length }
}

fn is_zero(bytes: &[u8]) -> bool {
    // By words of 16 bytes: the compiler makes vector code of it, and most blocks end at the first.
    let (head, words, tail) = (bytes.chunks_exact(16), 0u128.to_ne_bytes(), bytes.len() % 16);
    head.into_iter().all(|chunk| chunk == words)
        && bytes[bytes.len() - tail..].iter().all(|byte| *byte == 0)
}
