//! Reads tar: ustar, PAX and GNU, with the names, attributes and sparse files of all of them.
//!
//! The library `tar` parses the fields of a header. This module reads the stream around them,
//! because the library parses PAX records as lines of text, and attributes are binary.

use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::error::Error;
use super::pax::Pax;
use super::sparse::{Form, Lines, MAX_PIECES, Map, Piece, from_pax};
use crate::transfer::paths::shown;
use linux::xattrs::Xattrs;

/// Bytes of a block of an archive.
const BLOCK: usize = 512;
/// Most bytes of the headers of one entry: names and attributes of any size that Linux knows.
const MAX_EXTENSION: u64 = 16 << 20;

/// The highest numbers of a device that Linux and squashfs know.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

/// Something in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As in the archive.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    pub xattrs: Xattrs,
    pub has_acl: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File(Map),
    Directory,
    Symlink(Vec<u8>),
    /// Another name of an entry that came before, by the path it had there.
    HardLink(Vec<u8>),
    /// Major and minor.
    BlockDevice(u32, u32),
    CharDevice(u32, u32),
    Fifo,
}

/// The extension headers before an entry's own header.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Pax,
}

/// An archive that is read from front to back.
pub struct Reader<R> {
    input: R,
    position: u64,
    globals: Pax,
    /// Data of the current entry that was not read.
    left: u64,
    /// What fills its last block.
    padding: u64,
}

impl<R: Read> Reader<R> {
    pub fn new(input: R) -> Self {
        Self { input, position: 0, globals: Pax::default(), left: 0, padding: 0 }
    }

    /// The next entry, or `None` at the archive's end mark. Data of the last one is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_data()?;
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            if block.iter().all(|byte| *byte == 0) {
                self.drain()?;
                return Ok(None);
            }
            if !is_header(&block) {
                return Err(self.damaged("a header whose checksum is wrong"));
            }
            let header = Header::from_byte_slice(&block);
            self.left = self.field(header.entry_size(), "a size that is not a number")?;
            self.padding = padding(self.left);
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(self.long_name()?),
                EntryType::GNULongLink => extensions.link = Some(self.long_name()?),
                EntryType::XHeader => {
                    let bytes = self.extension()?;
                    self.pax(&mut extensions.pax, &bytes)?;
                }
                EntryType::XGlobalHeader => {
                    let bytes = self.extension()?;
                    let mut globals = std::mem::take(&mut self.globals);
                    self.pax(&mut globals, &bytes)?;
                    self.globals = globals;
                }
                // The name of the volume, `tar --label`: it belongs to no file.
                other if other.as_byte() == b'V' => {}
                _ => return self.entry(header, extensions).map(Some),
            }
        }
    }

    /// Reads data of the current entry; as many bytes as its map says are stored.
    pub fn data(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        debug_assert!(buffer.len() as u64 <= self.left);
        self.fill(buffer)?;
        self.left -= buffer.len() as u64;
        Ok(())
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry, Error> {
        let pax = self.globals.overlaid(extensions.pax);
        let path = extensions
            .path
            .or_else(|| pax.get("GNU.sparse.name").map(<[u8]>::to_vec))
            .or_else(|| pax.get("path").map(<[u8]>::to_vec))
            .unwrap_or_else(|| header.path_bytes().into_owned());
        if let Some(size) = pax.number("size") {
            self.left = size.ok_or_else(|| self.damaged("a size that is not a number"))?;
            self.padding = padding(self.left);
        }
        let link = extensions
            .link
            .or_else(|| pax.get("linkpath").map(<[u8]>::to_vec))
            .or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
        // POSIX gives these no data, whatever size they have: old tars put the file's size on its
        // links.
        let kind = header.entry_type();
        if has_no_data(kind) || kind == EntryType::Regular && path.ends_with(b"/") {
            (self.left, self.padding) = (0, 0);
        }
        let kind = self.kind(header, &path, link, &pax)?;
        let old = header.as_old();
        let id = |it: Option<Option<u64>>, field: &[u8], value: io::Result<u64>| {
            let id = match it {
                Some(id) => id,
                None => blank_or(field, value).ok(),
            };
            let id = id.and_then(|id| u32::try_from(id).ok());
            id.ok_or_else(|| self.damaged("an owner that is not a 32-bit number"))
        };
        let mtime = match pax.seconds("mtime") {
            Some(seconds) => seconds.ok_or_else(|| self.damaged("a time that is not a number"))?,
            None => self
                .field(blank_or(&old.mtime, header.mtime()), "a time that is not a number")?
                as i64,
        };
        Ok(Entry {
            kind,
            mode: (self.field(
                blank_or(&old.mode, header.mode().map(u64::from)),
                "a mode that is not a number",
            )? & 0o7777) as u16,
            uid: id(pax.number("uid"), &old.uid, header.uid())?,
            gid: id(pax.number("gid"), &old.gid, header.gid())?,
            mtime,
            xattrs: pax.xattrs(),
            has_acl: pax.has_acl(),
            path,
        })
    }

    fn kind(
        &mut self,
        header: &Header,
        path: &[u8],
        link: Option<Vec<u8>>,
        pax: &Pax,
    ) -> Result<Kind, Error> {
        let target = || {
            let target = link.clone().filter(|target| !target.is_empty() && !target.contains(&0));
            target.ok_or(Error::Name { path: shown(path), what: "a link without a target" })
        };
        match header.entry_type() {
            // The archives of Unix V7 have no type for directories.
            EntryType::Regular if path.ends_with(b"/") => Ok(Kind::Directory),
            EntryType::Regular | EntryType::Continuous => self.regular(pax).map(Kind::File),
            EntryType::GNUSparse => self.old_gnu_sparse(header).map(Kind::File),
            // 'D' lists a directory's names, for incremental archives.
            EntryType::Directory => Ok(Kind::Directory),
            other if other.as_byte() == b'D' => Ok(Kind::Directory),
            EntryType::Symlink => Ok(Kind::Symlink(target()?)),
            EntryType::Link => Ok(Kind::HardLink(target()?)),
            EntryType::Block => {
                let (major, minor) = self.device(header)?;
                Ok(Kind::BlockDevice(major, minor))
            }
            EntryType::Char => {
                let (major, minor) = self.device(header)?;
                Ok(Kind::CharDevice(major, minor))
            }
            EntryType::Fifo => Ok(Kind::Fifo),
            other => Err(Error::EntryType { path: shown(path), kind: other.as_byte().into() }),
        }
    }

    fn device(&self, header: &Header) -> Result<(u32, u32), Error> {
        let number = |field: io::Result<Option<u32>>| field.ok().flatten();
        let device = number(header.device_major()).zip(number(header.device_minor()));
        let device = device.filter(|(major, minor)| *major <= MAX_MAJOR && *minor <= MAX_MINOR);
        device.ok_or_else(|| self.damaged("a device with a number that is not valid on Linux"))
    }

    fn regular(&mut self, pax: &Pax) -> Result<Map, Error> {
        let map = match from_pax(pax) {
            None => return Ok(Map::plain(self.left)),
            Some(Some(Form::Headers(map))) => Some(map),
            Some(Some(Form::Data(size))) => self.map_in_data(size)?,
            Some(None) => None,
        };
        map.filter(|map| map.stored() == self.left)
            .ok_or_else(|| self.damaged("a sparse file map that does not match its data"))
    }

    fn map_in_data(&mut self, size: u64) -> Result<Option<Map>, Error> {
        let mut lines = Lines::default();
        loop {
            let mut block = [0; BLOCK];
            if self.left < BLOCK as u64 {
                return Ok(None);
            }
            self.data(&mut block)?;
            match lines.block(&block) {
                None => return Ok(None),
                Some(true) => return Ok(lines.map(size)),
                Some(false) => {}
            }
        }
    }

    /// The map is in the header, and in further blocks between it and the data.
    fn old_gnu_sparse(&mut self, header: &Header) -> Result<Map, Error> {
        let damaged = "a malformed sparse file map";
        let gnu = header.as_gnu().ok_or_else(|| self.damaged(damaged))?;
        let size = self.field(gnu.real_size(), damaged)?;
        let mut pieces: Vec<Piece> = Vec::new();
        self.pieces(&gnu.sparse, &mut pieces)?;
        let mut more = gnu.is_extended();
        while more {
            let mut extension = GnuExtSparseHeader::new();
            self.fill(extension.as_mut_bytes())?;
            self.pieces(extension.sparse(), &mut pieces)?;
            more = extension.is_extended();
            if pieces.len() > MAX_PIECES {
                return Err(self.damaged(damaged));
            }
        }
        Map::new(size, pieces)
            .filter(|map| map.stored() == self.left)
            .ok_or_else(|| self.damaged(damaged))
    }

    fn pieces(&self, headers: &[GnuSparseHeader], pieces: &mut Vec<Piece>) -> Result<(), Error> {
        for header in headers.iter().filter(|header| !header.is_empty()) {
            let number = |field| self.field(field, "a malformed sparse file map");
            pieces.push((number(header.offset())?, number(header.length())?));
        }
        Ok(())
    }

    fn long_name(&mut self) -> Result<Vec<u8>, Error> {
        let mut name = self.extension()?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        name.truncate(end);
        Ok(name)
    }

    /// The data of an entry that describes the next one.
    fn extension(&mut self) -> Result<Vec<u8>, Error> {
        if self.left > MAX_EXTENSION {
            return Err(self.damaged("an extended header that is longer than 16 MiB"));
        }
        let mut bytes = vec![0; self.left as usize];
        self.data(&mut bytes)?;
        Ok(bytes)
    }

    fn pax(&self, pax: &mut Pax, bytes: &[u8]) -> Result<(), Error> {
        pax.extend(bytes).ok_or_else(|| self.damaged("a malformed extended header"))
    }

    fn skip_data(&mut self) -> Result<(), Error> {
        let mut buffer = [0; 16 * BLOCK];
        let mut rest = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        while rest > 0 {
            let step = rest.min(buffer.len() as u64) as usize;
            self.fill(&mut buffer[..step])?;
            rest -= step as u64;
        }
        Ok(())
    }

    /// Reads what follows the end mark: only so are the checksums of a compressed stream compared.
    fn drain(&mut self) -> Result<(), Error> {
        let drained = io::copy(&mut self.input, &mut io::sink());
        drained.map(|_| ()).map_err(|source| Error::Read { position: self.position, source })
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Error> {
        self.input.read_exact(buffer).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => Error::Truncated { position: self.position },
            _ => Error::Read { position: self.position, source },
        })?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    fn field<T>(&self, field: io::Result<T>, what: &'static str) -> Result<T, Error> {
        field.map_err(|_| self.damaged(what))
    }

    fn damaged(&self, what: &'static str) -> Error {
        Error::Damaged { position: self.position, what }
    }
}

/// A number, or 0 for a field that was left blank, as some writers leave what they do not know.
fn blank_or(field: &[u8], value: io::Result<u64>) -> io::Result<u64> {
    let is_blank = field.iter().all(|byte| matches!(byte, 0 | b' '));
    if is_blank { Ok(0) } else { value }
}

fn has_no_data(kind: EntryType) -> bool {
    kind.is_hard_link()
        || kind.is_symlink()
        || kind.is_character_special()
        || kind.is_block_special()
        || kind.is_dir()
        || kind.is_fifo()
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

/// True for a block with the checksum of a tar header. Some old tars summed signed bytes.
pub fn is_header(block: &[u8; BLOCK]) -> bool {
    let Ok(stored) = Header::from_byte_slice(block).cksum() else { return false };
    let counted = |index: usize, byte: u8| if (148..156).contains(&index) { b' ' } else { byte };
    let bytes = || block.iter().enumerate().map(|(index, byte)| counted(index, *byte));
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
    [unsigned, signed].contains(&i64::from(stored))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: EntryType, name: &str, size: u64) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_link_name("target").unwrap();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_device_major(1).unwrap();
        header.set_device_minor(2).unwrap();
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    #[test]
    fn what_has_no_data_may_tell_a_size() {
        use EntryType::{Block, Char, Directory, Fifo, Link, Regular, Symlink};
        let old_directory = (Regular, "first/");
        let kinds = [Link, Symlink, Char, Block, Directory, Fifo].map(|kind| (kind, "first"));
        for (kind, name) in kinds.into_iter().chain([old_directory]) {
            let (first, second) = (header(kind, name, 1024), header(Regular, "second", 0));
            let archive = [first, second, vec![0; 2 * BLOCK]].concat();
            let mut reader = Reader::new(&archive[..]);
            reader.next_entry().unwrap().unwrap();
            assert_eq!(reader.next_entry().unwrap().unwrap().path, b"second", "{kind:?}");
            assert!(reader.next_entry().unwrap().is_none());
        }
    }
}
