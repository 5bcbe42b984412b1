//! An open image and its tables.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::Error;
use super::metadata::{Cursor, Metadata};
use crate::format::fragment::{self, Fragment};
use crate::format::metadata::{BLOCK, Header, Reference};
use crate::format::options::Options;
use crate::format::superblock::{ABSENT, SIZE};
use crate::format::{Compressor, Inode, Superblock};
use linux::xattrs::Xattrs;

/// An image that can be read by several threads at once.
pub struct Image {
    pub(super) file: File,
    superblock: Superblock,
    pub(super) metadata: Metadata,
    ids: Vec<u32>,
    /// Where the fragment table's blocks are.
    fragments: Vec<u64>,
    pub(super) xattrs: Option<super::xattrs::Table>,
    options: Option<Options>,
}

impl Image {
    /// Opens the image at `path` and checks what its superblock says about the tables.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file =
            File::open(path).map_err(|source| Error::Open { path: path.to_owned(), source })?;
        Self::new(file)
    }

    /// The same with an open file.
    pub fn new(file: File) -> Result<Self, Error> {
        let length = file_length(&file)?;
        let mut bytes = vec![0; SIZE.min(length as usize)];
        read_at(&file, &mut bytes, 0)?;
        let superblock = Superblock::parse(&bytes)?;
        if superblock.bytes_used > length {
            return Err(Error::damaged("it is truncated, maybe by an incomplete download", length));
        }
        check_order(&superblock)?;
        let options = read_options(&file, &superblock)?
            .and_then(|bytes| Options::parse(superblock.compressor, &bytes));
        let metadata = Metadata::new(file.try_clone().map_err(|e| io(0, 0, e))?, &superblock)?;
        let fragments = block_list(
            &file,
            &superblock,
            superblock.fragment_table,
            u64::from(superblock.fragment_count) * fragment::SIZE as u64,
        )?;
        let xattrs = super::xattrs::Table::open(&file, &superblock)?;
        let mut image =
            Self { file, superblock, metadata, ids: Vec::new(), fragments, xattrs, options };
        image.ids = image.read_ids()?;
        Ok(image)
    }

    /// What the image says of itself.
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The compressor's options if the image has them.
    pub(crate) fn options(&self) -> Option<&Options> {
        self.options.as_ref()
    }

    /// The file that the image was opened from.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The option block as it is stored, for an image that keeps this one's blocks.
    pub fn option_block(&self) -> Result<Option<Vec<u8>>, Error> {
        read_options(&self.file, &self.superblock)
    }

    /// Reads the inode at a place of the inode table.
    pub fn inode(&self, at: Reference) -> Result<Inode, Error> {
        let end = self.superblock.directory_table;
        let mut cursor = Cursor::new(&self.metadata, self.superblock.inode_table, at, end)?;
        Inode::read(&mut cursor, self.superblock.block_size)
    }

    /// The root directory's place in the inode table.
    pub fn root(&self) -> Reference {
        Reference(self.superblock.root_inode)
    }

    /// Reads all inodes in the order of the table, with their places.
    pub fn inodes(
        &self,
        mut visit: impl FnMut(Reference, Inode) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (start, end) = (self.superblock.inode_table, self.superblock.directory_table);
        let mut cursor = Cursor::new(&self.metadata, start, Reference(0), end)?;
        for _ in 0..self.superblock.inode_count {
            let at = cursor.place()?;
            visit(at, Inode::read(&mut cursor, self.superblock.block_size)?)?;
        }
        Ok(())
    }

    /// Owner and group of an inode.
    pub fn owner(&self, inode: &Inode) -> Result<(u32, u32), Error> {
        let id = |index: u16| self.ids.get(usize::from(index)).copied();
        id(inode.uid)
            .zip(id(inode.gid))
            .ok_or(Error::damaged("an owner that is not in the id table", self.superblock.id_table))
    }

    /// The attributes of an inode, sorted by name as stored.
    pub fn xattrs(&self, inode: &Inode) -> Result<Xattrs, Error> {
        super::xattrs::read(self, inode.xattr)
    }

    /// Where a fragment lies.
    pub fn fragment(&self, number: u32) -> Result<Fragment, Error> {
        let per_block = (BLOCK / fragment::SIZE) as u32;
        let block = self
            .fragments
            .get((number / per_block) as usize)
            .filter(|_| number < self.superblock.fragment_count)
            .ok_or(Error::damaged(
                "a fragment that is not in the table",
                self.superblock.fragment_table,
            ))?;
        let offset = (number % per_block) as u16 * fragment::SIZE as u16;
        let end = self.superblock.bytes_used;
        let mut cursor = Cursor::new(&self.metadata, *block, Reference::new(0, offset), end)?;
        let mut bytes = [0; fragment::SIZE];
        crate::format::Fill::fill(&mut cursor, &mut bytes)?;
        Ok(Fragment::parse(&bytes))
    }

    fn read_ids(&self) -> Result<Vec<u32>, Error> {
        let bytes = u64::from(self.superblock.id_count) * 4;
        let blocks = block_list(&self.file, &self.superblock, self.superblock.id_table, bytes)?;
        let mut ids = Vec::new();
        for block in blocks {
            let left = usize::from(self.superblock.id_count) - ids.len();
            let block = self.metadata.block(block)?;
            ids.extend(
                block
                    .data
                    .chunks_exact(4)
                    .take(left)
                    .map(|id| u32::from_le_bytes(id.try_into().expect("chunks of four bytes"))),
            );
        }
        Ok(ids)
    }

    /// What a whole pass over the data needs to know of the compressor.
    pub fn compressor(&self) -> Compressor {
        self.superblock.compressor
    }
}

/// The tables lie behind the data, one after the other; sizes are bounded by that.
fn check_order(superblock: &Superblock) -> Result<(), Error> {
    let used = superblock.bytes_used;
    let tables = [
        superblock.inode_table,
        superblock.directory_table,
        superblock.id_table,
        superblock.fragment_table,
        superblock.export_table,
        superblock.xattr_table,
    ];
    if superblock.inode_table < SIZE as u64 || superblock.inode_table >= superblock.directory_table
    {
        return Err(Error::damaged("the tables overlap", superblock.inode_table));
    }
    for (index, table) in tables.into_iter().enumerate() {
        // Inode, directory and id table must be there; the others only if something needs them.
        let absent = index >= 3 && table == ABSENT;
        if !absent && (table > used || table < superblock.inode_table) {
            return Err(Error::damaged("a table outside of the image", table));
        }
    }
    if superblock.inode_count == 0 {
        return Err(Error::damaged("no inodes", 0));
    }
    Ok(())
}

fn read_options(file: &File, superblock: &Superblock) -> Result<Option<Vec<u8>>, Error> {
    if !superblock.has_options() {
        return Ok(None);
    }
    let mut header = [0; 2];
    read_at(file, &mut header, SIZE as u64)?;
    let mut bytes = vec![0; usize::from(Header::parse(header).stored).min(BLOCK)];
    read_at(file, &mut bytes, SIZE as u64 + 2)?;
    Ok(Some(bytes))
}

/// Reads the list of a table's metadata blocks: positions that rise and lie in the image.
pub(super) fn block_list(
    file: &File,
    superblock: &Superblock,
    position: u64,
    table_bytes: u64,
) -> Result<Vec<u64>, Error> {
    let count = table_bytes.div_ceil(BLOCK as u64);
    if count == 0 {
        return Ok(Vec::new());
    }
    let end = position.checked_add(count * 8).filter(|end| *end <= superblock.bytes_used);
    if end.is_none() {
        return Err(Error::damaged("a table longer than the image", position));
    }
    let mut bytes = vec![0; count as usize * 8];
    read_at(file, &mut bytes, position)?;
    let blocks: Vec<u64> = bytes
        .chunks_exact(8)
        .map(|it| u64::from_le_bytes(it.try_into().expect("chunks of eight bytes")))
        .collect();
    let rising = blocks.windows(2).all(|pair| pair[0] < pair[1]);
    if !rising || blocks.last().is_some_and(|last| *last >= position) {
        return Err(Error::damaged("a table whose blocks are out of order", position));
    }
    Ok(blocks)
}

/// The length of a file, or of a block device.
fn file_length(mut file: &File) -> Result<u64, Error> {
    std::io::Seek::seek(&mut file, std::io::SeekFrom::End(0)).map_err(|e| io(0, 0, e))
}

pub(super) fn read_at(file: &File, buffer: &mut [u8], position: u64) -> Result<(), Error> {
    file.read_exact_at(buffer, position).map_err(|e| io(position, buffer.len(), e))
}

fn io(position: u64, length: usize, source: std::io::Error) -> Error {
    Error::Io { position, length, source }
}
