//! What flows through the pipeline: events from the scanner to the planner, items from the planner
//! to the writer.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::Error;
use super::source::{Content, SourceFile};
use super::worker::Packed;
use crate::format::inode::{File, Tail};
use linux::xattrs::Xattrs;

/// Where the result of a worker's job will be: one value, sent once.
pub(crate) type Slot<T> = Receiver<Result<T, Error>>;

/// Owner, permissions and the like, as an inode will have them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970-01-01 UTC.
    pub mtime: u32,
    /// Extended attributes with their whole names.
    pub xattrs: Xattrs,
}

/// A name in a directory, and the inode's number.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub name: Vec<u8>,
    pub number: u32,
    pub nlink: u32,
    pub attributes: Attributes,
}

/// One step of the walk, in byte order of the names, a directory's content between its `Enter` and
/// `Leave`.
#[derive(Debug)]
pub(crate) enum Event {
    Enter(Named),
    Leave,
    Special(Named, Special),
    /// A file to read; its content is the next of the batch's contents.
    File(Named),
    /// A file whose content the base image holds.
    Kept(Named, Kept),
    /// One more name of an inode that was seen.
    Link {
        name: Vec<u8>,
        number: u32,
    },
    /// The tail of a kept file whose fragment cannot stay; comes before all files.
    Rescued {
        old: OldTail,
        bytes: Vec<u8>,
    },
    /// A block of a content that streams by, before there is a name for it.
    Block(Vec<u8>),
    /// So many blocks of zeros in it, and their bytes.
    Hole {
        blocks: u64,
        bytes: u64,
    },
    /// The end of a content in blocks, of `size` bytes.
    EndOfBlocks {
        size: u64,
    },
    /// A content that is shorter than a block.
    Small(Vec<u8>),
    /// A file whose content came by, with that content's number.
    Stored(Named, u32),
}

/// What has neither entries nor bytes. Device numbers are as an inode has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Special {
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// A block device.
    BlockDevice(u32),
    /// A character device.
    CharDevice(u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// The place of a tail in the base image, with its length: the same bytes once, however many files
/// share them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct OldTail {
    pub tail: Tail,
    pub length: u32,
}

/// A file of the base image: data blocks at their new place; the tail at its new place, or still to be
/// found among the rescued.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub file: File,
    pub rescued: Option<OldTail>,
}

/// Some events, and the contents of the files among them.
#[derive(Debug)]
pub(crate) struct Batch {
    pub events: Vec<Event>,
    pub contents: Option<Slot<Vec<Content>>>,
}

/// What the writer takes, one after the other.
#[derive(Debug)]
pub(crate) enum Item {
    Enter(Named),
    Leave,
    Special(Named, Special),
    Link {
        name: Vec<u8>,
        number: u32,
    },
    /// A data block of the file whose `File` item follows.
    Block(Slot<Packed>),
    /// So many blocks of zeros in that file, and their bytes.
    Hole {
        blocks: u64,
        bytes: u64,
    },
    /// The next fragment block.
    Fragment(Slot<Packed>),
    /// The blocks since the last file are one content, of which a name comes later.
    Blocks {
        size: u64,
    },
    File(Named, Data),
}

/// Where a file's content is.
#[derive(Debug)]
pub(crate) enum Data {
    /// In the blocks since the last file, and in a tail. Checked for changes when all is read.
    New { size: u64, tail: Option<Tail>, check: Option<Arc<SourceFile>> },
    /// The same as the file with this number among those with blocks.
    Same { blocks_of: u32 },
    /// Known from a base image.
    Ready(File),
}
