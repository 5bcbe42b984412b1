//! Packs a changed tree by taking from a base image what did not change: its blocks are copied as
//! they are, only metadata is written anew.
//!
//! What did not change is known by identity, never guessed: from an overlay's upper layer, from a
//! record made when the base was unpacked, or by comparing content. Bytes of files that are gone do
//! not survive: data areas keep live ranges alone, and fragments with a dead tail are packed again.

mod carry;
mod compare;
mod index;
mod overlay;
mod record;
mod survey;

#[cfg(test)]
mod tests;

use std::path::Path;

use tokio_util::sync::CancellationToken;

pub use carry::Range;
pub use record::Record;

use super::format::options::Options as CompressorOptions;
use super::read::Image;
use super::write::{self, Error, Options, Summary, scan, sink::Sink};
use carry::Carry;
use linux::dir::Dir;
use linux::disk::filesystem;
use progress::Progress;

/// How the changes since the base are known.
#[derive(Debug, Clone, Copy)]
pub enum Changes<'a> {
    /// The base was mounted under an overlay; these are its upper layer and, if it was mounted with
    /// `index=on`, its work directory, not mounted any more or left alone. Only the base's metadata
    /// and what is in them are read.
    Overlay {
        /// The upper layer.
        upper: &'a Path,
        /// The work directory.
        work: Option<&'a Path>,
    },
    /// The base was unpacked to the root, and recorded then.
    Recorded(&'a Record),
    /// Nothing is known: files of the same path and size are compared with the base.
    Content,
    /// As rsync does: the same path, size and modification time are taken for the same content.
    Quick,
}

/// What a reuse pack did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What was packed.
    pub summary: Summary,
    /// Byte ranges of the base in the new image, in order, for copies inside an object store. Empty if
    /// the base was not used.
    pub ranges: Vec<Range>,
}

impl From<Summary> for Outcome {
    /// Of a pack without a base.
    fn from(summary: Summary) -> Self {
        Self { summary, ranges: Vec::new() }
    }
}

/// Packs the tree at `root` to `out` with the blocks of `base`. With [`Changes::Overlay`] the tree is
/// base and upper layer merged, and `root` is read only if the base cannot be reused.
///
/// A base that cannot be reused is logged once, and the tree is packed in full.
pub fn pack(
    base: &Path,
    changes: Changes,
    root: &Path,
    out: &Path,
    options: &Options,
    meter: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Outcome, Error> {
    let reason = match open(base, options) {
        Ok(image) => match reuse(&image, changes, root, out, options, meter, cancel) {
            Err(Error::Base(error)) => linux::error::chain(&error),
            other => return other,
        },
        Err(reason) => reason,
    };
    if matches!(changes, Changes::Overlay { .. }) && !is_overlay(root)? {
        return Err(Error::NotMounted { root: root.into(), reason });
    }
    tracing::warn!(base = %base.display(), %reason, "cannot reuse blocks of the base; packing in \
        full");
    meter.set(0);
    Ok(write::pack(root, out, options, meter, cancel)?.into())
}

/// Else `root` may be the empty directory on which the overlay was.
fn is_overlay(root: &Path) -> Result<bool, Error> {
    let found = filesystem(root).map_err(|error| Error::read("open", root, error))?;
    Ok(found == "overlay")
}

/// Opens the base if its blocks fit the image that is asked for; otherwise the reason.
fn open(base: &Path, options: &Options) -> Result<Image, String> {
    let image = Image::open(base).map_err(|error| linux::error::chain(&error))?;
    let (have, want) = (image.superblock(), &options.settings);
    if have.block_size != want.block_size {
        return Err(format!("it has blocks of {} bytes, not {}", have.block_size, want.block_size));
    }
    if have.compressor != want.compressor {
        let (have, want) = (have.compressor.name(), want.compressor.name());
        return Err(format!("it is compressed with {have}, not {want}"));
    }
    // What is added needs a dictionary of a block, and the image names one size for all.
    if let Some(CompressorOptions::Xz { dictionary, .. }) = image.options()
        && *dictionary < want.block_size
    {
        return Err(format!("its xz dictionary has {dictionary} bytes, less than a block"));
    }
    Ok(image)
}

fn reuse(
    image: &Image,
    changes: Changes,
    root: &Path,
    out: &Path,
    options: &Options,
    meter: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Outcome, Error> {
    let mut sink = Sink::create(out)?;
    let skip = sink.identity()?;
    let (top, top_path) = match changes {
        Changes::Overlay { upper, .. } => (open_dir(upper)?, upper),
        _ => (open_dir(root)?, root),
    };
    let threads = write::pipeline::threads(options);
    let tree = survey::Tree { dir: &top, path: top_path, exclude: &options.exclude, skip };
    let found = survey::run(image, &tree, changes, threads, cancel)?;
    meter.set_total(found.survey.content);
    let carry = Carry::new(image, &found.live)?;
    let option_block = image.option_block()?;
    sink.begin(option_block.as_deref())?;
    let carry = carry.placed(sink.position());
    for range in &carry.ranges {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        sink.copy(image.file(), range.base, range.length)?;
    }
    let fragments = carry.fragments(image)?;
    let start = write::pipeline::Start { fragments, has_options: option_block.is_some() };
    let job = write::pipeline::Job { root: &top, root_path: top_path, options, meter, cancel };
    let ranges = carry.ranges.clone();
    let summary = write::pipeline::run(&job, sink, start, |feeder| {
        carry.rescue(image, feeder)?;
        let resolve = |at| carry.resolve(image, at);
        match changes {
            Changes::Overlay { .. } => overlay::feed(image, &tree, &found, &resolve, feeder),
            _ => {
                let unchanged = (&found.unchanged, &resolve as scan::Resolve);
                scan::feed(&top, top_path, tree.exclude, skip, &found.survey, unchanged, feeder)
            }
        }
    })?;
    Ok(Outcome { summary, ranges })
}

fn open_dir(path: &Path) -> Result<Dir, Error> {
    Dir::open(path).map_err(|e| Error::read("open", path, e))
}
