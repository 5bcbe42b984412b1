//! Packs a directory tree into an image.
//!
//! A scanner walks the tree in byte order and feeds events to the planner, which finds duplicates
//! and fills fragments; workers read and compress; the writer takes everything in the planner's
//! order. So the bytes are the same whatever the number of threads. `reuse` feeds the same pipeline
//! with the parts of a base image that stay.

mod directory;
mod duplicates;
mod error;
pub(crate) mod event;
pub(crate) mod exclude;
mod feed;
mod fragments;
mod metadata;
pub(crate) mod pipeline;
mod plan;
pub(crate) mod scan;
pub(crate) mod sink;
pub(crate) mod source;
mod stored;
mod stream;
mod tables;
mod tree;
pub(crate) mod worker;
mod xattrs;

use std::path::Path;

use tokio_util::sync::CancellationToken;

pub use error::Error;
pub use event::{Attributes, Special};
pub use exclude::Exclude;
pub use feed::Feeder;
pub use scan::MAX_DEPTH;
pub use stream::pack_stream;

use super::codec::Settings;
use super::format::Compressor;
use super::format::metadata::Reference;
use linux::dir::Dir;
use progress::Progress;

/// Bytes in a data block by default: mksquashfs's default, which the nodes boot.
pub const DEFAULT_BLOCK: u32 = 131_072;

/// How to pack.
#[derive(Debug, Clone)]
pub struct Options {
    /// Compressor and size of a block.
    pub settings: Settings,
    /// Compressing threads; `None` for as many as the cgroup allows.
    pub threads: Option<usize>,
    /// SOURCE_DATE_EPOCH: the image's time, and the latest that any inode may have.
    pub epoch: Option<u32>,
    /// What is left out.
    pub exclude: Vec<Exclude>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            settings: Settings {
                compressor: Compressor::Gzip,
                level: None,
                block_size: DEFAULT_BLOCK,
            },
            threads: None,
            epoch: None,
            exclude: Vec::new(),
        }
    }
}

/// What was packed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Inodes of the image.
    pub inodes: u32,
    /// Bytes of the image without its padding.
    pub bytes_used: u64,
    /// Bytes of the files' content, each hard-linked file once.
    pub content: u64,
    /// Files whose content another file has too, stored once.
    pub duplicates: u64,
    /// Attributes left out, because squashfs has no place for their namespace.
    pub xattrs_skipped: u64,
}

/// Packs the tree at `root` into the image `out`, which appears whole or not at all. Counts bytes of
/// content on `meter`.
pub fn pack(
    root: &Path,
    out: &Path,
    options: &Options,
    meter: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Summary, Error> {
    let dir = Dir::open(root).map_err(|e| Error::read("open", root, e))?;
    let mut sink = sink::Sink::create(out)?;
    let skip = sink.identity()?;
    let option_block = options.settings.options()?.map(|it| it.encode());
    sink.begin(option_block.as_deref())?;
    let start = pipeline::Start { has_options: option_block.is_some(), ..Default::default() };
    let survey = scan::survey(&dir, root, &options.exclude, skip, cancel)?;
    meter.set_total(survey.content);
    let job = pipeline::Job { root: &dir, root_path: root, options, meter, cancel };
    pipeline::run(&job, sink, start, |feeder| {
        let none = (&scan::Unchanged::default(), &nothing_kept as scan::Resolve);
        scan::feed(&dir, root, &options.exclude, skip, &survey, none, feeder)
    })
}

/// Without a base nothing is asked for.
fn nothing_kept(_: Reference) -> Result<event::Kept, Error> {
    Err(Error::Interrupted)
}
