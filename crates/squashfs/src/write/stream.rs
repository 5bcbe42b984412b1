//! Packs what streams by: contents first, in whatever order they come, then the tree that names them.
//!
//! Contents are compressed and written as they come; only the tree is held in memory. So an archive becomes
//! an image without being unpacked.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::event::{Attributes, Event};
use super::feed::Feeder;
use super::sink::Sink;
use super::{Error, Options, Summary, pipeline};
use linux::dir::Dir;

/// Packs what `feed` feeds into the image `out`, which appears whole or not at all.
pub fn pack_stream<F>(
    out: &Path,
    options: &Options,
    cancel: &CancellationToken,
    feed: F,
) -> Result<Summary, Error>
where
    F: FnOnce(&mut Feeder) -> Result<(), Error> + Send,
{
    let mut sink = Sink::create(out)?;
    let option_block = options.settings.options()?.map(|it| it.encode());
    sink.begin(option_block.as_deref())?;
    let start = pipeline::Start { has_options: option_block.is_some(), ..Default::default() };
    // No file is read from a tree; the pipeline wants one, and the image's own directory is there.
    let parent = out.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let root = Dir::open(parent).map_err(|e| Error::read("open", parent, e))?;
    // Progress is that of the input, which the caller counts.
    let job = pipeline::Job { root: &root, root_path: parent, options, meter: &(), cancel };
    pipeline::run(&job, sink, start, feed)
}

impl Feeder<'_> {
    /// Bytes of a block.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// A block of the content that comes by: `block_size` bytes, fewer only at its end.
    pub fn block(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        let length = bytes.len() as u64;
        self.push(Event::Block(bytes), length)
    }

    /// So many blocks of zeros, and their bytes: fewer than the blocks have only at the end.
    pub fn hole(&mut self, blocks: u64, bytes: u64) -> Result<(), Error> {
        self.push(Event::Hole { blocks, bytes }, 0)
    }

    /// The content in blocks is complete; its number.
    pub fn end_of_blocks(&mut self, size: u64) -> Result<u32, Error> {
        self.push(Event::EndOfBlocks { size }, 0)?;
        self.next_content()
    }

    /// A content that is shorter than a block; its number.
    pub fn small(&mut self, bytes: Vec<u8>) -> Result<u32, Error> {
        let length = bytes.len() as u64;
        self.push(Event::Small(bytes), length)?;
        self.next_content()
    }

    /// A file with a content that came by.
    pub fn stored(
        &mut self,
        name: &[u8],
        attributes: Attributes,
        nlink: u32,
        content: u32,
    ) -> Result<(), Error> {
        let named = self.named(name, attributes, nlink)?;
        self.push(Event::Stored(named, content), 0)
    }

    fn next_content(&mut self) -> Result<u32, Error> {
        let number = self.contents;
        self.contents = number.checked_add(1).ok_or(Error::TooLarge { what: "number of files" })?;
        Ok(number)
    }
}
