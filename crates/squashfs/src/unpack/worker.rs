//! The threads that unpack file content and write it.

use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::Receiver;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::metadata::{Metadata, Skipped};
use crate::format::inode::{File, Tail};
use crate::read::{BlockReader, Image};
use linux::dir::Dir;
use progress::Progress;

/// A file to be made.
pub(super) struct Target {
    pub dir: Arc<Dir>,
    pub name: Vec<u8>,
    pub metadata: Metadata,
    /// Its path for messages.
    pub shown: PathBuf,
}

/// A file that several workers may write at a time.
pub(super) struct Large {
    target: Target,
    pub file: File,
    out: std::fs::File,
    /// Pieces that are not written yet.
    left: AtomicUsize,
}

pub(super) enum Job {
    Small(Vec<(Target, Tail, u32)>),
    /// Blocks of a file; the first lies at byte `start` of the image.
    Piece {
        large: Arc<Large>,
        blocks: Range<usize>,
        start: u64,
    },
}

impl Large {
    pub(super) fn create(target: Target, file: File, pieces: usize) -> Result<Self, Error> {
        let out = create(&target)?;
        // What is not written stays a hole.
        out.set_len(file.size).map_err(|e| Error::write("extend", &target.shown, e))?;
        Ok(Self { target, file, out, left: AtomicUsize::new(pieces) })
    }
}

/// Works until the queue's sender is gone.
pub(super) fn run(
    jobs: Receiver<Job>,
    image: &Image,
    skipped: &Skipped,
    meter: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let mut reader = BlockReader::new(image)?;
    let block_size = image.superblock().block_size;
    let mut buffer = vec![0; block_size as usize];
    for job in jobs {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        match job {
            Job::Small(files) => {
                for (target, tail, length) in files {
                    small(&target, tail, length, &mut reader)?;
                    finish(&target, skipped)?;
                    meter.add(length.into());
                }
            }
            Job::Piece { large, blocks, start } => {
                let last = blocks.end == large.file.blocks.len();
                let written = piece(&large, blocks, start, &mut reader, &mut buffer)?;
                meter.add(written);
                if last {
                    meter.add(tail(&large, &mut reader, block_size)?);
                }
                if large.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                    finish(&large.target, skipped)?;
                }
            }
        }
    }
    Ok(())
}

fn small(target: &Target, tail: Tail, length: u32, reader: &mut BlockReader) -> Result<(), Error> {
    let bytes = reader.tail(tail, length)?;
    create(target)?.write_all(&bytes).map_err(|e| Error::write("write", &target.shown, e))
}

/// Writes some blocks; bytes of content, holes included.
fn piece(
    large: &Large,
    blocks: Range<usize>,
    mut start: u64,
    reader: &mut BlockReader,
    buffer: &mut [u8],
) -> Result<u64, Error> {
    let block_size = buffer.len() as u64;
    let mut offset = blocks.start as u64 * block_size;
    let first = offset;
    for word in &large.file.blocks[blocks] {
        let length = block_size.min(large.file.size - offset);
        if !word.is_sparse() {
            let bytes = &mut buffer[..length as usize];
            reader.exact_block(start, *word, bytes)?;
            write_at(large, bytes, offset)?;
        }
        start = start.saturating_add(word.stored().into());
        offset += length;
    }
    Ok(offset - first)
}

/// Writes the tail of a file that has blocks too; its length.
fn tail(large: &Large, reader: &mut BlockReader, block_size: u32) -> Result<u64, Error> {
    let Some(tail) = large.file.tail else {
        return Ok(0);
    };
    let length = (large.file.size % u64::from(block_size)) as u32;
    let bytes = reader.tail(tail, length)?;
    write_at(large, &bytes, large.file.size - u64::from(length))?;
    Ok(length.into())
}

fn write_at(large: &Large, bytes: &[u8], offset: u64) -> Result<(), Error> {
    large.out.write_all_at(bytes, offset).map_err(|e| Error::write("write", &large.target.shown, e))
}

fn create(target: &Target) -> Result<std::fs::File, Error> {
    target.dir.make_file(&target.name).map_err(|e| Error::write("make", &target.shown, e))
}

fn finish(target: &Target, skipped: &Skipped) -> Result<(), Error> {
    target
        .metadata
        .apply(&target.dir, &target.name, skipped)
        .map_err(|(action, e)| Error::write(action, &target.shown, e))
}
