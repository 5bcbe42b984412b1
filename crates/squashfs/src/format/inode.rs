//! Inodes: a common head, then what the type needs. The extended form of a type is used only when
//! the basic one cannot hold the values.

use super::block::BlockWord;
use super::directory::IndexEntry;
use super::{Fill, fragment, u16_at, u32_at, u64_at, xattr};

/// Most entries of one block list that are read: 64 MiB of memory. Files of 2 TiB at 128 KiB blocks.
pub const MAX_BLOCKS: u64 = 1 << 24;
/// Longest symlink target that Linux has, and so the longest that is believed.
pub const MAX_TARGET: u32 = 65535;

const HEAD: usize = 16;
const EXTENDED: u16 = 7;

/// An inode of either form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// Permission bits with setuid, setgid and sticky; the type is in `kind`.
    pub mode: u16,
    /// Index of the owner in the id table.
    pub uid: u16,
    /// Index of the group in the id table.
    pub gid: u16,
    /// Seconds since 1970-01-01 UTC.
    pub mtime: u32,
    /// Inode numbers begin with 1.
    pub number: u32,
    /// Names of the inode.
    pub nlink: u32,
    /// Number of the attribute set, `u32::MAX` for none.
    pub xattr: u32,
    /// The type, and what only that type has.
    pub kind: Kind,
}

/// What an inode is, and where its content lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory, whose entries [`Image::list`](crate::read::Image::list) gives.
    Directory(Directory),
    /// A regular file.
    File(File),
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// Device numbers are kept as stored (Linux's 32-bit encoding).
    BlockDevice(u32),
    /// As of a block device.
    CharDevice(u32),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// Where the listing of a directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Block of the directory table in which the listing starts.
    pub block: u32,
    /// Offset of the listing in that block.
    pub offset: u16,
    /// Bytes of the listing, and 3 more.
    pub size: u32,
    /// Inode number of the directory above; for the root one more than the last number in use.
    pub parent: u32,
    pub(crate) index: Vec<IndexEntry>,
}

/// Where the content of a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Bytes.
    pub size: u64,
    /// Byte offset of the first data block in the image.
    pub start: u64,
    /// Bytes of the file that are holes.
    pub sparse: u64,
    pub(crate) blocks: Vec<BlockWord>,
    /// The last part of the file when it is packed with others.
    pub tail: Option<Tail>,
}

/// Where a file's tail lies: number of the fragment, offset in the unpacked fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tail {
    /// Number of the fragment.
    pub fragment: u32,
    /// Bytes before the tail in the unpacked fragment.
    pub offset: u32,
}

/// Why bytes are not an inode.
#[allow(missing_docs, reason = "the messages say it")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("unknown inode type {0}")]
    Type(u16),
    #[error("a file of {0} bytes, more blocks than are supported")]
    FileSize(u64),
    #[error("a symlink of {0} bytes")]
    Symlink(u32),
    #[error("a directory index with a name that is too long")]
    Index,
}

impl Kind {
    /// The basic type number, which directory entries hold too.
    pub(crate) fn type_number(&self) -> u16 {
        match self {
            Self::Directory(_) => 1,
            Self::File(_) => 2,
            Self::Symlink(_) => 3,
            Self::BlockDevice(_) => 4,
            Self::CharDevice(_) => 5,
            Self::Fifo => 6,
            Self::Socket => 7,
        }
    }
}

impl File {
    /// Number of entries in the block list of a file of `size` bytes.
    pub(crate) fn block_count(size: u64, block_size: u32, has_tail: bool) -> u64 {
        let block_size = u64::from(block_size);
        if has_tail { size / block_size } else { size.div_ceil(block_size) }
    }

    /// Bytes that the data blocks take in the image.
    pub fn stored(&self) -> u64 {
        self.blocks.iter().map(|word| u64::from(word.stored())).sum()
    }
}

impl Inode {
    /// Appends the inode as stored, in the basic form if that can hold it.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let extended = self.needs_extended();
        let kind = self.kind.type_number() + if extended { EXTENDED } else { 0 };
        for half in [kind, self.mode, self.uid, self.gid] {
            out.extend_from_slice(&half.to_le_bytes());
        }
        words(out, &[self.mtime, self.number]);
        match &self.kind {
            Kind::Directory(directory) => self.encode_directory(directory, extended, out),
            Kind::File(file) => self.encode_file(file, extended, out),
            Kind::Symlink(target) => {
                words(out, &[self.nlink, target.len() as u32]);
                out.extend_from_slice(target);
            }
            Kind::BlockDevice(device) | Kind::CharDevice(device) => {
                words(out, &[self.nlink, *device]);
            }
            Kind::Fifo | Kind::Socket => words(out, &[self.nlink]),
        }
        if extended && !matches!(self.kind, Kind::Directory(_) | Kind::File(_)) {
            words(out, &[self.xattr]);
        }
    }

    fn needs_extended(&self) -> bool {
        self.xattr != xattr::NONE
            || match &self.kind {
                Kind::Directory(it) => it.size > u32::from(u16::MAX) || !it.index.is_empty(),
                Kind::File(it) => {
                    it.size > u64::from(u32::MAX)
                        || it.start > u64::from(u32::MAX)
                        || it.sparse > 0
                        || self.nlink > 1
                }
                _ => false,
            }
    }

    fn encode_directory(&self, it: &Directory, extended: bool, out: &mut Vec<u8>) {
        if !extended {
            words(out, &[it.block, self.nlink]);
            out.extend_from_slice(&(it.size as u16).to_le_bytes());
            out.extend_from_slice(&it.offset.to_le_bytes());
            words(out, &[it.parent]);
            return;
        }
        words(out, &[self.nlink, it.size, it.block, it.parent]);
        out.extend_from_slice(&(it.index.len() as u16).to_le_bytes());
        out.extend_from_slice(&it.offset.to_le_bytes());
        words(out, &[self.xattr]);
        for entry in &it.index {
            entry.encode(out);
        }
    }

    fn encode_file(&self, it: &File, extended: bool, out: &mut Vec<u8>) {
        let tail = it.tail.unwrap_or(Tail { fragment: fragment::NONE, offset: 0 });
        if extended {
            for long in [it.start, it.size, it.sparse] {
                out.extend_from_slice(&long.to_le_bytes());
            }
            words(out, &[self.nlink, tail.fragment, tail.offset, self.xattr]);
        } else {
            words(out, &[it.start as u32, tail.fragment, tail.offset, it.size as u32]);
        }
        for word in &it.blocks {
            out.extend_from_slice(&word.0.to_le_bytes());
        }
    }

    /// Reads an inode of an image with blocks of `block_size` bytes.
    pub(crate) fn read<F: Fill>(from: &mut F, block_size: u32) -> Result<Self, F::Error>
    where
        F::Error: From<Invalid>,
    {
        let head: [u8; HEAD] = from.take()?;
        let kind = u16_at(&head, 0);
        let mut inode = Self {
            mode: u16_at(&head, 2) & 0o7777,
            uid: u16_at(&head, 4),
            gid: u16_at(&head, 6),
            mtime: u32_at(&head, 8),
            number: u32_at(&head, 12),
            nlink: 1,
            xattr: xattr::NONE,
            kind: Kind::Fifo,
        };
        let extended = kind > EXTENDED;
        inode.kind = match if extended { kind - EXTENDED } else { kind } {
            1 => inode.read_directory(from, extended)?,
            2 => inode.read_file(from, extended, block_size)?,
            3 => inode.read_symlink(from)?,
            4 => Kind::BlockDevice(inode.read_device(from)?),
            5 => Kind::CharDevice(inode.read_device(from)?),
            6 => inode.read_links(from, Kind::Fifo)?,
            7 => inode.read_links(from, Kind::Socket)?,
            _ => return Err(Invalid::Type(kind).into()),
        };
        if extended && !matches!(inode.kind, Kind::Directory(_) | Kind::File(_)) {
            inode.xattr = u32::from_le_bytes(from.take()?);
        }
        Ok(inode)
    }

    fn read_directory<F: Fill>(&mut self, from: &mut F, extended: bool) -> Result<Kind, F::Error>
    where
        F::Error: From<Invalid>,
    {
        if !extended {
            let body: [u8; 16] = from.take()?;
            self.nlink = u32_at(&body, 4);
            return Ok(Kind::Directory(Directory {
                block: u32_at(&body, 0),
                offset: u16_at(&body, 10),
                size: u32::from(u16_at(&body, 8)),
                parent: u32_at(&body, 12),
                index: Vec::new(),
            }));
        }
        let body: [u8; 24] = from.take()?;
        self.nlink = u32_at(&body, 0);
        self.xattr = u32_at(&body, 20);
        let mut index = Vec::new();
        for _ in 0..u16_at(&body, 16) {
            index.push(IndexEntry::read(from)?.ok_or(Invalid::Index)?);
        }
        Ok(Kind::Directory(Directory {
            block: u32_at(&body, 8),
            offset: u16_at(&body, 18),
            size: u32_at(&body, 4),
            parent: u32_at(&body, 12),
            index,
        }))
    }

    fn read_file<F: Fill>(
        &mut self,
        from: &mut F,
        extended: bool,
        block_size: u32,
    ) -> Result<Kind, F::Error>
    where
        F::Error: From<Invalid>,
    {
        let (mut file, fragment, offset);
        if extended {
            let body: [u8; 40] = from.take()?;
            file = File {
                start: u64_at(&body, 0),
                size: u64_at(&body, 8),
                sparse: u64_at(&body, 16),
                blocks: Vec::new(),
                tail: None,
            };
            (fragment, offset) = (u32_at(&body, 28), u32_at(&body, 32));
            self.nlink = u32_at(&body, 24);
            self.xattr = u32_at(&body, 36);
        } else {
            let body: [u8; 16] = from.take()?;
            file = File {
                start: u64::from(u32_at(&body, 0)),
                size: u64::from(u32_at(&body, 12)),
                sparse: 0,
                blocks: Vec::new(),
                tail: None,
            };
            (fragment, offset) = (u32_at(&body, 4), u32_at(&body, 8));
        }
        file.tail = (fragment != fragment::NONE).then_some(Tail { fragment, offset });
        let count = File::block_count(file.size, block_size, file.tail.is_some());
        if count > MAX_BLOCKS {
            return Err(Invalid::FileSize(file.size).into());
        }
        // Grown as entries arrive: a damaged size must not reserve memory that no table backs.
        for _ in 0..count {
            file.blocks.push(BlockWord(u32::from_le_bytes(from.take()?)));
        }
        Ok(Kind::File(file))
    }

    fn read_symlink<F: Fill>(&mut self, from: &mut F) -> Result<Kind, F::Error>
    where
        F::Error: From<Invalid>,
    {
        let body: [u8; 8] = from.take()?;
        self.nlink = u32_at(&body, 0);
        let length = u32_at(&body, 4);
        if length > MAX_TARGET {
            return Err(Invalid::Symlink(length).into());
        }
        let mut target = vec![0; length as usize];
        from.fill(&mut target)?;
        Ok(Kind::Symlink(target))
    }

    fn read_device<F: Fill>(&mut self, from: &mut F) -> Result<u32, F::Error> {
        let body: [u8; 8] = from.take()?;
        self.nlink = u32_at(&body, 0);
        Ok(u32_at(&body, 4))
    }

    fn read_links<F: Fill>(&mut self, from: &mut F, kind: Kind) -> Result<Kind, F::Error> {
        self.nlink = u32::from_le_bytes(from.take()?);
        Ok(kind)
    }
}

fn words(out: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

/// A device number as inodes hold it: Linux's `new_encode_dev`.
pub fn encode_device(major: u64, minor: u64) -> u32 {
    ((minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12) as u32
}

/// Major and minor of a stored device number.
pub fn decode_device(device: u32) -> (u32, u32) {
    ((device >> 8) & 0xfff, (device & 0xff) | (device >> 12) & 0xfff00)
}
