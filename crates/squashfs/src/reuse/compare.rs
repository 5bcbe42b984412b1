//! Compares files with a base image's, in parallel, by their bytes.

use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio_util::sync::CancellationToken;

use super::super::read::{BlockReader, Image, grown};
use super::super::write::scan::{Identity, identity};
use super::super::write::source::{Place, Request, SourceFile, Version, version};
use crate::format::inode::File;
use crate::format::metadata::Reference;
use crate::write::Error;
use linux::stat::Stat;

/// Files that are compared by one worker in one go; bounds open directories.
const BATCH: usize = 64;

/// A file of the tree, and the base's that it may be the same as.
pub(super) struct Candidate {
    pub place: Arc<Place>,
    pub name: Vec<u8>,
    pub stat: Stat,
    pub at: Reference,
    pub file: File,
}

/// A file that is the same as the base's.
pub(super) type Match = (Identity, (Version, Reference));

/// Gathers candidates and hands them to workers.
pub(super) struct Comparer<'scope> {
    queue: Sender<Vec<Candidate>>,
    workers: Vec<ScopedJoinHandle<'scope, Result<Vec<Match>, Error>>>,
    batch: Vec<Candidate>,
}

impl<'scope> Comparer<'scope> {
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        image: &'scope Image,
        threads: usize,
        cancel: &'scope CancellationToken,
    ) -> Self {
        let (queue, candidates) = bounded(threads);
        let workers = (0..threads)
            .map(|_| {
                let candidates = candidates.clone();
                scope.spawn(move || work(&candidates, image, cancel))
            })
            .collect();
        Self { queue, workers, batch: Vec::new() }
    }

    pub(super) fn add(&mut self, candidate: Candidate) -> Result<(), Error> {
        self.batch.push(candidate);
        if self.batch.len() == BATCH { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let mut batch = std::mem::take(&mut self.batch);
        // Neighbours in a fragment are unpacked once.
        batch.sort_by_key(|it| it.file.tail);
        Ok(self.queue.send(batch)?)
    }

    /// All files that are the same.
    pub(super) fn finish(mut self, walked: Result<(), Error>) -> Result<Vec<Match>, Error> {
        let flushed = walked.and_then(|()| self.flush());
        drop(self.queue);
        let (mut matches, mut errors) = (Vec::new(), Vec::new());
        errors.extend(flushed.err());
        for worker in self.workers {
            match worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                Ok(found) => matches.extend(found),
                Err(error) => errors.push(error),
            }
        }
        Error::root_cause(errors).map_or(Ok(matches), Err)
    }
}

fn work(
    candidates: &Receiver<Vec<Candidate>>,
    image: &Image,
    cancel: &CancellationToken,
) -> Result<Vec<Match>, Error> {
    let mut reader = BlockReader::new(image)?;
    let mut matches = Vec::new();
    let mut buffer = Vec::new();
    for batch in candidates {
        for Candidate { place, name, stat, at, file } in batch {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let source = Request { place, name, stat }.open()?;
            if same(&source, &file, &mut reader, &mut buffer)? {
                source.check()?;
                matches.push((identity(&stat), (version(&stat), at)));
            }
        }
    }
    Ok(matches)
}

/// Ends the unpacking of a file early: it differs, or one of the two cannot be read.
enum Stop {
    Differs,
    Failed(Error),
}

impl From<super::super::read::Error> for Stop {
    fn from(error: super::super::read::Error) -> Self {
        Self::Failed(error.into())
    }
}

/// True if the file has the same bytes as the base's of the same size.
fn same(
    source: &SourceFile,
    file: &File,
    reader: &mut BlockReader,
    buffer: &mut Vec<u8>,
) -> Result<bool, Error> {
    let mut position = 0;
    let compared = reader.file(file, |offset, bytes| {
        zeros(source, position, offset, buffer)?;
        let found = grown(buffer, bytes.len());
        source.read_at(found, offset).map_err(Stop::Failed)?;
        position = offset + bytes.len() as u64;
        if found == bytes { Ok(()) } else { Err(Stop::Differs) }
    });
    match compared.and_then(|()| zeros(source, position, file.size, buffer)) {
        Ok(()) => Ok(true),
        Err(Stop::Differs) => Ok(false),
        Err(Stop::Failed(error)) => Err(error),
    }
}

/// Checks that a range which is a hole in the base reads as zeros.
fn zeros(source: &SourceFile, from: u64, to: u64, buffer: &mut Vec<u8>) -> Result<(), Stop> {
    let mut at = from;
    while at < to {
        if source.has_holes() {
            at = source.next_data(at).map_err(Stop::Failed)?.unwrap_or(to).max(at);
            if at >= to {
                break;
            }
        }
        let found = grown(buffer, (to - at).min(1 << 17) as usize);
        source.read_at(found, at).map_err(Stop::Failed)?;
        if found.iter().any(|byte| *byte != 0) {
            return Err(Stop::Differs);
        }
        at += found.len() as u64;
    }
    Ok(())
}
