//! Starts the threads of a pack, joins them, and finds the error that was first.

use std::collections::HashMap;
use std::path::Path;
use std::thread::{self, ScopedJoinHandle};

use crossbeam_channel::bounded;
use tokio_util::sync::CancellationToken;

use super::duplicates::Duplicates;
use super::feed::Feeder;
use super::fragments::Fragments;
use super::plan::Planner;
use super::sink::Sink;
use super::stored::Stored;
use super::tree::Writer;
use super::{Error, Options, Summary, worker};
use crate::format::fragment::Fragment;
use linux::cgroup;
use linux::dir::Dir;
use progress::Progress;

/// Most bytes of blocks that wait for the writer.
const QUEUED_BYTES: usize = 64 << 20;
/// Most memory that all encoders together may take.
const ENCODER_BYTES: u64 = 128 << 20;
/// Batches between scanner and planner.
const BATCHES: usize = 4;

/// What a pack is made from and how.
pub(crate) struct Job<'a> {
    pub root: &'a Dir,
    pub root_path: &'a Path,
    pub options: &'a Options,
    pub meter: &'a dyn Progress,
    pub cancel: &'a CancellationToken,
}

/// What is in the image before the pipeline starts.
#[derive(Debug, Default)]
pub(crate) struct Start {
    /// Fragments of a base image that stay, in the order of their new numbers.
    pub fragments: Vec<Fragment>,
    /// An option block follows the superblock.
    pub has_options: bool,
}

/// Packs what `feed` feeds behind what `sink` holds, and finishes the image.
pub(crate) fn run<F>(job: &Job, sink: Sink, start: Start, feed: F) -> Result<Summary, Error>
where
    F: FnOnce(&mut Feeder) -> Result<(), Error> + Send,
{
    let settings = job.options.settings;
    let threads = threads(job.options);
    let items_cap = (QUEUED_BYTES / settings.block_size as usize).clamp(2 * threads, 1024);
    thread::scope(|scope| {
        let (work, work_queue) = bounded(2 * threads);
        let (batches, batch_queue) = bounded(BATCHES);
        let (items, item_queue) = bounded(items_cap);
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let queue = work_queue.clone();
                scope.spawn(move || worker::run(queue, &settings))
            })
            .collect();
        drop(work_queue);
        let planner = Planner {
            work: work.clone(),
            items,
            duplicates: Duplicates::new(job.root, job.root_path),
            fragments: Fragments::new(start.fragments.len() as u32, settings.block_size),
            block_size: settings.block_size,
            rescued: HashMap::new(),
            stored: Stored::default(),
            with_blocks: 0,
            found: 0,
        };
        let planner = scope.spawn(move || planner.run(batch_queue));
        let (cancel, epoch) = (job.cancel, job.options.epoch);
        let feeder = scope.spawn(move || {
            let mut feeder = Feeder::new(work, batches, cancel, epoch, settings.block_size);
            feed(&mut feeder)?;
            feeder.finish()
        });
        let written = Writer::new(sink, job, start).and_then(|writer| writer.run(item_queue));
        finish(written, join(planner), join(feeder), workers.into_iter().map(join).collect())
    })
}

fn finish(
    written: Result<Summary, Error>,
    planned: Result<u64, Error>,
    fed: Result<(), Error>,
    worked: Vec<Result<(), Error>>,
) -> Result<Summary, Error> {
    let mut errors: Vec<Error> = Vec::new();
    let (mut summary, duplicates) = (Summary::default(), planned.map_err(|e| errors.push(e)));
    match written {
        Ok(done) => summary = done,
        Err(error) => errors.push(error),
    }
    errors.extend(fed.err());
    errors.extend(worked.into_iter().filter_map(Result::err));
    match Error::root_cause(errors) {
        Some(error) => Err(error),
        None => Ok(Summary { duplicates: duplicates.unwrap_or_default(), ..summary }),
    }
}

/// A thread's result; its panic goes on in this one.
fn join<T>(handle: ScopedJoinHandle<T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Compressing threads: as many as requested or as the cgroup's cpu.max gives, fewer if their encoders
/// would take too much of its memory.max.
pub(crate) fn threads(options: &Options) -> usize {
    let budget = cgroup::memory().map_or(ENCODER_BYTES, |limit| ENCODER_BYTES.min(limit / 4));
    let by_memory = (budget / options.settings.encoder_memory()).max(1) as usize;
    options.threads.unwrap_or_else(cgroup::cpus).clamp(1, 512).min(by_memory)
}
