//! The writer: takes the planner's items in order, writes blocks as they come, builds inodes and
//! directories, and ends the image with its tables.

use std::time::{SystemTime, UNIX_EPOCH};

use crossbeam_channel::Receiver;

use super::directory::Listing;
use super::event::{Data, Item, Named, Slot, Special};
use super::metadata::Table;
use super::pipeline::{Job, Start};
use super::sink::Sink;
use super::tables::{Ids, lookup_table};
use super::worker::Packed;
use super::{Error, Options, Summary, xattrs};
use crate::codec::Encoder;
use crate::format::block::BlockWord;
use crate::format::fragment::Fragment;
use crate::format::inode::File;
use crate::format::metadata::Reference;
use crate::format::superblock::{Superblock, flags};
use crate::format::{Inode, Kind};
use progress::Progress;
use tokio_util::sync::CancellationToken;

/// A directory whose content is being written.
struct OpenDirectory {
    named: Named,
    listing: Listing,
    subdirectories: u32,
}

/// The state of an image while it is written.
pub(super) struct Writer<'a> {
    sink: Sink,
    encoder: Encoder,
    options: &'a Options,
    meter: &'a dyn Progress,
    cancel: &'a CancellationToken,
    inodes: Table,
    directories: Table,
    fragments: Vec<Fragment>,
    has_options: bool,
    ids: Ids,
    xattrs: xattrs::Attributes,
    /// Place of each inode by its number less one, with its type for further links.
    places: Vec<(Reference, u16)>,
    open: Vec<OpenDirectory>,
    root: Option<Reference>,
    /// The file whose blocks are coming.
    current: File,
    /// Files with blocks, for their duplicates.
    with_blocks: Vec<File>,
    content: u64,
    scratch: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(sink: Sink, job: &Job<'a>, start: Start) -> Result<Self, Error> {
        Ok(Self {
            sink,
            encoder: Encoder::new(&job.options.settings)?,
            options: job.options,
            meter: job.meter,
            cancel: job.cancel,
            inodes: Table::default(),
            directories: Table::default(),
            fragments: start.fragments,
            has_options: start.has_options,
            ids: Ids::default(),
            xattrs: xattrs::Attributes::default(),
            places: Vec::new(),
            open: Vec::new(),
            root: None,
            current: no_blocks(),
            with_blocks: Vec::new(),
            content: 0,
            scratch: Vec::new(),
        })
    }

    /// Writes all items and finishes the image.
    pub(super) fn run(mut self, items: Receiver<Item>) -> Result<Summary, Error> {
        for item in items {
            if self.cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            self.item(item)?;
        }
        self.finish()
    }

    fn item(&mut self, item: Item) -> Result<(), Error> {
        match item {
            Item::Enter(named) => {
                let (listing, subdirectories) = (Listing::default(), 0);
                self.open.push(OpenDirectory { named, listing, subdirectories });
                Ok(())
            }
            Item::Leave => self.leave(),
            Item::Special(named, special) => {
                let kind = match special {
                    Special::Symlink(target) => Kind::Symlink(target),
                    Special::BlockDevice(device) => Kind::BlockDevice(device),
                    Special::CharDevice(device) => Kind::CharDevice(device),
                    Special::Fifo => Kind::Fifo,
                    Special::Socket => Kind::Socket,
                };
                self.child(named, kind)
            }
            Item::Link { name, number } => {
                let (reference, kind) = self.places[number as usize - 1];
                self.entry(&name, number, kind, reference)
            }
            Item::Block(slot) => self.block(slot),
            Item::Hole { blocks, bytes } => {
                let count = self.current.blocks.len() + blocks as usize;
                self.current.blocks.resize(count, BlockWord::SPARSE);
                self.current.sparse += bytes;
                self.meter.add(bytes);
                Ok(())
            }
            Item::Fragment(slot) => {
                let packed = slot.recv()??;
                let start = self.sink.position();
                self.fragments.push(Fragment { start, word: packed.word });
                self.sink.write(&packed.bytes)
            }
            Item::Blocks { size } => {
                let file = std::mem::replace(&mut self.current, no_blocks());
                self.with_blocks.push(File { size, ..file });
                Ok(())
            }
            Item::File(named, data) => self.file(named, data),
        }
    }

    fn block(&mut self, slot: Slot<Packed>) -> Result<(), Error> {
        let packed = slot.recv()??;
        if packed.word.is_sparse() {
            self.current.sparse += u64::from(packed.content);
        } else if self.current.start == 0 {
            self.current.start = self.sink.position();
        }
        self.current.blocks.push(packed.word);
        self.meter.add(packed.content.into());
        self.sink.write(&packed.bytes)
    }

    fn file(&mut self, named: Named, data: Data) -> Result<(), Error> {
        let file = match data {
            Data::Ready(file) => {
                self.meter.add(file.size);
                file
            }
            Data::Same { blocks_of } => {
                let file = self.with_blocks[blocks_of as usize].clone();
                self.meter.add(file.size);
                file
            }
            Data::New { size, tail, check } => {
                let mut file = std::mem::replace(&mut self.current, no_blocks());
                (file.size, file.tail) = (size, tail);
                match check {
                    Some(source) => source.check()?,
                    None => self.meter.add(size),
                }
                if !file.blocks.is_empty() {
                    self.with_blocks.push(file.clone());
                }
                file
            }
        };
        self.content += file.size;
        self.child(named, Kind::File(file))
    }

    fn leave(&mut self) -> Result<(), Error> {
        let OpenDirectory { named, listing, subdirectories } =
            self.open.pop().expect("the feeder leaves only what it has entered");
        // The root has no parent; its field holds a number that no inode has.
        let unused = named.number.max(self.places.len() as u32) + 1;
        let parent = self.open.last().map_or(unused, |above| above.named.number);
        let directory = listing.write(parent, &mut self.directories, &mut self.encoder)?;
        let (name, number) = (named.name.clone(), named.number);
        let nlink = subdirectories + 2;
        let kind = Kind::Directory(directory);
        let type_number = kind.type_number();
        let reference = self.inode(Named { nlink, ..named }, kind)?;
        match self.open.last_mut() {
            Some(above) => {
                above.subdirectories += 1;
                above.listing.push(&name, number, type_number, reference);
            }
            None => self.root = Some(reference),
        }
        Ok(())
    }

    fn child(&mut self, mut named: Named, kind: Kind) -> Result<(), Error> {
        let name = std::mem::take(&mut named.name);
        let (number, type_number) = (named.number, kind.type_number());
        let reference = self.inode(named, kind)?;
        self.entry(&name, number, type_number, reference)
    }

    fn entry(&mut self, name: &[u8], number: u32, kind: u16, at: Reference) -> Result<(), Error> {
        let above = self.open.last_mut().expect("the feeder enters the root first");
        above.listing.push(name, number, kind, at);
        Ok(())
    }

    /// Writes an inode; where it lies.
    fn inode(&mut self, named: Named, kind: Kind) -> Result<Reference, Error> {
        let attributes = named.attributes;
        let type_number = kind.type_number();
        let inode = Inode {
            mode: attributes.mode,
            uid: self.ids.add(attributes.uid)?,
            gid: self.ids.add(attributes.gid)?,
            mtime: attributes.mtime,
            number: named.number,
            nlink: named.nlink,
            xattr: self.xattrs.add(attributes.xattrs, &mut self.encoder)?,
            kind,
        };
        let reference = self.inodes.reference();
        self.scratch.clear();
        inode.encode(&mut self.scratch);
        self.inodes.write(&self.scratch, &mut self.encoder)?;
        let index = named.number as usize - 1;
        if self.places.len() <= index {
            self.places.resize(index + 1, (Reference(0), 0));
        }
        self.places[index] = (reference, type_number);
        Ok(reference)
    }

    fn finish(mut self) -> Result<Summary, Error> {
        // Without a root the feeder has failed, and says why.
        let root = self.root.ok_or(Error::Interrupted)?;
        let inode_table = self.sink.position();
        self.sink.write(&self.inodes.finish(&mut self.encoder)?.0)?;
        let directory_table = self.sink.position();
        self.sink.write(&self.directories.finish(&mut self.encoder)?.0)?;
        let (sink, encoder) = (&mut self.sink, &mut self.encoder);
        let fragments = self.fragments.iter().map(|it| it.encode());
        let fragment_table = lookup_table(fragments, sink, encoder)?;
        let places = self.places.iter().map(|(place, _)| place.0.to_le_bytes());
        let export_table = lookup_table(places, sink, encoder)?;
        let id_count = self.ids.count();
        let id_table = self.ids.finish(sink, encoder)?;
        let xattrs_skipped = self.xattrs.skipped;
        let xattr_table = self.xattrs.finish(sink, encoder)?;
        let settings = &self.options.settings;
        let options = if self.has_options { flags::COMPRESSOR_OPTIONS } else { 0 };
        let superblock = Superblock {
            inode_count: self.places.len() as u32,
            mkfs_time: self.options.epoch.unwrap_or_else(now),
            block_size: settings.block_size,
            fragment_count: self.fragments.len() as u32,
            compressor: settings.compressor,
            flags: flags::DUPLICATES | flags::EXPORTABLE | options,
            id_count,
            root_inode: root.0,
            bytes_used: self.sink.position(),
            id_table,
            xattr_table,
            inode_table,
            directory_table,
            fragment_table,
            export_table,
        };
        self.sink.finish(&superblock)?;
        Ok(Summary {
            inodes: superblock.inode_count,
            bytes_used: superblock.bytes_used,
            content: self.content,
            duplicates: 0,
            xattrs_skipped,
        })
    }
}

fn no_blocks() -> File {
    File { size: 0, start: 0, sparse: 0, blocks: Vec::new(), tail: None }
}

/// Seconds since 1970; what lies beyond 2106 does not fit and stays there.
fn now() -> u32 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX)
}
