//! Converts an archive to an image: contents are packed as they arrive, then the tree that names
//! them.

use std::io::Read;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::reader::{Entry, Kind, Reader};
use super::sparse::Map;
use super::tree::{self, Node, Tree};
use crate::transfer::paths::shown;
use squashfs::format::inode::{MAX_BLOCKS, encode_device};
use squashfs::write::{self, Attributes, Feeder, Options, Special, Summary, pack_stream};

/// Most blocks of all files together, holes included: a header of a few bytes can ask for any number,
/// and each takes four bytes of memory. 8 TiB of content at 128 KiB.
const MAX_ALL_BLOCKS: u64 = 1 << 26;

/// Longest target of a symbolic link, in bytes: a path (PATH_MAX of linux/limits.h) without its end.
const LONGEST_TARGET: usize = 4095;

/// What was made of an archive, and what of it could not be kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Converted {
    pub summary: Summary,
    /// Names with a leading slash, which was stripped.
    pub absolute: u64,
    /// Entries with access control lists, for which squashfs has no place.
    pub acls: u64,
    /// Entries from before 1970 or after 2106, which got the first or last second of squashfs.
    pub times: u64,
}

/// Turns the archive `input` (plain tar) into the image `out`, which appears whole or not at all.
pub fn convert(
    input: impl Read + Send,
    out: &Path,
    options: &Options,
    cancel: &CancellationToken,
) -> Result<Converted, write::Error> {
    let mut converted = Converted::default();
    let summary = pack_stream(out, options, cancel, |feeder| {
        let mut conversion = Conversion {
            reader: Reader::new(input),
            tree: Tree::new(),
            blocks: 0,
            converted: &mut converted,
        };
        while let Some(entry) = conversion.reader.next_entry().map_err(input_error)? {
            conversion.add(entry, feeder)?;
        }
        conversion.tree.feed(feeder)
    })?;
    converted.summary = summary;
    Ok(converted)
}

fn input_error(error: Error) -> write::Error {
    write::Error::Input(error.into())
}

struct Conversion<'a, R> {
    reader: Reader<R>,
    tree: Tree,
    blocks: u64,
    converted: &'a mut Converted,
}

impl<R: Read> Conversion<'_, R> {
    fn add(&mut self, entry: Entry, feeder: &mut Feeder) -> Result<(), write::Error> {
        self.converted.absolute += u64::from(entry.path.starts_with(b"/"));
        self.converted.acls += u64::from(entry.has_acl);
        self.converted.times += u64::from(u32::try_from(entry.mtime).is_err());
        let attributes = Attributes {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: u32::try_from(entry.mtime.max(0)).unwrap_or(u32::MAX),
            xattrs: entry.xattrs,
        };
        let path = entry.path;
        let special = |special| tree::Kind::Special(special);
        let kind = match entry.kind {
            Kind::Directory => {
                return self.tree.add_directory(&path, attributes).map_err(input_error);
            }
            Kind::HardLink(target) => {
                return self.tree.add_link(&path, &target).map_err(input_error);
            }
            Kind::File(map) => tree::Kind::File(self.content(&path, &map, feeder)?),
            Kind::Symlink(target) if target.len() > LONGEST_TARGET => {
                let what = "the target of the link";
                return Err(input_error(Error::TooLarge { path: shown(&path), what }));
            }
            Kind::Symlink(target) => special(Special::Symlink(target)),
            Kind::BlockDevice(major, minor) => {
                special(Special::BlockDevice(encode_device(major.into(), minor.into())))
            }
            Kind::CharDevice(major, minor) => {
                special(Special::CharDevice(encode_device(major.into(), minor.into())))
            }
            Kind::Fifo => special(Special::Fifo),
        };
        self.tree.add(&path, Node { attributes, kind }).map_err(input_error)
    }

    /// Packs the content of the current entry; its number.
    fn content(
        &mut self,
        path: &[u8],
        map: &Map,
        feeder: &mut Feeder,
    ) -> Result<u32, write::Error> {
        let block_size = u64::from(feeder.block_size());
        if map.size < block_size {
            let mut bytes = vec![0; map.size as usize];
            for (offset, length) in &map.pieces {
                let piece = &mut bytes[*offset as usize..(offset + length) as usize];
                self.reader.data(piece).map_err(input_error)?;
            }
            return feeder.small(bytes);
        }
        let blocks = map.size.div_ceil(block_size);
        self.blocks = self.blocks.saturating_add(blocks);
        if blocks > MAX_BLOCKS || self.blocks > MAX_ALL_BLOCKS {
            let what = "the size of the file, or of all files";
            return Err(input_error(Error::TooLarge { path: shown(path), what }));
        }
        self.blocks_of(map, block_size, feeder)
    }

    fn blocks_of(
        &mut self,
        map: &Map,
        block_size: u64,
        feeder: &mut Feeder,
    ) -> Result<u32, write::Error> {
        let mut pieces = map.pieces.iter().copied();
        let mut piece = pieces.next();
        let mut at = 0;
        while at < map.size {
            let left = map.size - at;
            let hole = match piece {
                // The last, short block is a hole too if no data follows.
                None => left.div_ceil(block_size),
                Some((offset, _)) => (offset - at) / block_size,
            };
            if hole > 0 {
                let bytes = (hole * block_size).min(left);
                feeder.hole(hole, bytes)?;
                at += bytes;
                continue;
            }
            let end = at + block_size.min(left);
            let mut block = vec![0; (end - at) as usize];
            while let Some((offset, length)) = piece.filter(|(offset, _)| *offset < end) {
                let step = length.min(end - offset);
                let target = &mut block[(offset - at) as usize..][..step as usize];
                self.reader.data(target).map_err(input_error)?;
                piece = match length - step {
                    0 => pieces.next(),
                    rest => Some((offset + step, rest)),
                };
            }
            feeder.block(block)?;
            at = end;
        }
        feeder.end_of_blocks(map.size)
    }
}
