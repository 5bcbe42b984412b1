//! Files of the tree while they are read: opened without following links, checked for changes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use twox_hash::XxHash3_64;

use super::Error;
use crate::marks::without_marks;
use linux::blocks;
use linux::dir::Dir;
use linux::stat::{self, Stat};
use linux::xattrs::{self, Xattrs};

/// A directory of the tree, and its path below the root for messages and to find it again.
#[derive(Debug)]
pub(crate) struct Place {
    pub dir: Dir,
    /// Relative to the root, no slash at either end; empty for the root.
    pub path: Vec<u8>,
    /// The root as the caller named it.
    pub root: Arc<Path>,
    /// It is in an overlay's upper layer: overlayfs's marks are not the user's.
    pub is_upper_layer: bool,
}

impl Place {
    /// The path of `name` as a person would write it.
    pub(crate) fn display(&self, name: &[u8]) -> PathBuf {
        let mut path = self.root.join(std::ffi::OsStr::from_bytes(&self.path));
        path.push(std::ffi::OsStr::from_bytes(name));
        path
    }

    /// Attributes as a user sees them.
    pub(crate) fn clean(&self, xattrs: Xattrs) -> Xattrs {
        if self.is_upper_layer { without_marks(xattrs) } else { xattrs }
    }

    /// The path of `name` below the root.
    pub(crate) fn below(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }
}

/// A file to be read, as it was when the walk came by.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub place: Arc<Place>,
    /// In `place`; the image may have another one for it.
    pub name: Vec<u8>,
    pub stat: Stat,
}

/// What a file holds, or how to get at it.
#[derive(Debug)]
pub(crate) struct Content {
    pub request: Request,
    pub xattrs: Xattrs,
    pub bytes: Bytes,
}

#[derive(Debug)]
pub(crate) enum Bytes {
    /// All of a file that is shorter than a block, with its hash.
    Whole { bytes: Vec<u8>, hash: u64 },
    /// A file of a block or more.
    Open(Arc<SourceFile>),
}

/// An open file of the tree.
#[derive(Debug)]
pub(crate) struct SourceFile {
    file: File,
    stat: Stat,
    path: PathBuf,
}

impl Request {
    /// Opens the file and reads it whole if it is shorter than `block_size`.
    pub(crate) fn fetch(self, block_size: u32) -> Result<Content, Error> {
        let source = self.open()?;
        let xattrs = xattrs::of_file(&source.file)
            .map_err(|e| Error::read("read the attributes of", &source.path, e))?;
        let bytes = if source.size() < u64::from(block_size) {
            let mut bytes = Vec::with_capacity(source.size() as usize + 1);
            (&source.file)
                .take(u64::from(block_size))
                .read_to_end(&mut bytes)
                .map_err(|e| Error::read("read", &source.path, e))?;
            if bytes.len() as u64 != source.size() {
                return Err(Error::Changed(source.path));
            }
            source.check()?;
            let hash = hash(&bytes);
            Bytes::Whole { bytes, hash }
        } else {
            Bytes::Open(Arc::new(source))
        };
        let xattrs = self.place.clean(xattrs);
        Ok(Content { request: self, xattrs, bytes })
    }

    /// Opens the file; an error if it is no longer the one that the walk saw.
    pub(crate) fn open(&self) -> Result<SourceFile, Error> {
        let path = self.place.display(&self.name);
        let file = match self.place.dir.open_file(&self.name) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::Vanished(path)),
            Err(e) => return Err(Error::Read { action: "open", path, source: e }),
        };
        let source = SourceFile { file, stat: self.stat, path };
        source.check()?;
        Ok(source)
    }
}

impl SourceFile {
    /// Bytes in the file when the walk came by.
    pub(crate) fn size(&self) -> u64 {
        self.stat.st_size as u64
    }

    /// True if the file has holes: fewer blocks on disk than its size takes.
    pub(crate) fn has_holes(&self) -> bool {
        (self.stat.st_blocks as u64).saturating_mul(512) < self.size()
    }

    /// Where data begins at or after `offset`.
    pub(crate) fn next_data(&self, offset: u64) -> Result<Option<u64>, Error> {
        blocks::next_data(&self.file, offset).map_err(|e| Error::read("seek in", &self.path, e))
    }

    /// Reads exactly the bytes at `offset`; fewer mean that the file was cut short.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), Error> {
        self.file.read_exact_at(buffer, offset).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => Error::Changed(self.path.clone()),
            _ => Error::read("read", &self.path, e),
        })
    }

    /// An error if the file is not as the walk saw it.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let now = stat::of_file(&self.file).map_err(|e| Error::read("stat", &self.path, e))?;
        if version(&now) == version(&self.stat) {
            Ok(())
        } else {
            Err(Error::Changed(self.path.clone()))
        }
    }
}

/// Inode, size and time of last change of the content: what identifies a version in stat(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    inode: u64,
    size: i64,
    mtime: (i64, i64),
}

pub(crate) fn version(stat: &Stat) -> Version {
    Version { inode: stat.st_ino, size: stat.st_size, mtime: (stat.st_mtime, stat.st_mtime_nsec) }
}

/// A quick hash by which equal contents are found; equality is always checked by bytes.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const BLOCK: u32 = 4096;

    /// A file of `length` bytes, as a walk that has just come by would ask for it.
    fn request(dir: &TempDir, length: usize) -> Request {
        std::fs::write(dir.path().join("file"), vec![1; length]).unwrap();
        let open = Dir::open(dir.path()).unwrap();
        let stat = open.stat(b"file").unwrap();
        let root = dir.path().into();
        let place = Place { dir: open, path: Vec::new(), root, is_upper_layer: false };
        Request { place: Arc::new(place), name: b"file".to_vec(), stat }
    }

    #[test]
    fn a_file_that_vanished_is_named() {
        let dir = TempDir::new().unwrap();
        let request = request(&dir, 10);
        std::fs::remove_file(dir.path().join("file")).unwrap();
        let error = request.fetch(BLOCK).unwrap_err();
        assert!(matches!(&error, Error::Vanished(path) if path.ends_with("file")), "{error}");
    }

    #[test]
    fn a_file_that_was_written_to_or_replaced_is_named() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("file");
        for length in [10, 3 * BLOCK as usize] {
            let grown = request(&dir, length);
            std::fs::write(&path, vec![2; length + 1]).unwrap();
            assert!(matches!(grown.fetch(BLOCK), Err(Error::Changed(_))));
            let replaced = request(&dir, length);
            std::fs::rename(&path, dir.path().join("old")).unwrap();
            std::fs::write(&path, vec![1; length]).unwrap();
            assert!(matches!(replaced.fetch(BLOCK), Err(Error::Changed(_))));
        }
    }

    #[test]
    fn a_file_that_is_cut_short_while_it_is_read_is_named() {
        let dir = TempDir::new().unwrap();
        let source = request(&dir, 3 * BLOCK as usize).open().unwrap();
        let mut block = vec![0; BLOCK as usize];
        source.read_at(&mut block, 0).unwrap();
        let file = std::fs::File::options().write(true).open(dir.path().join("file")).unwrap();
        file.set_len(u64::from(BLOCK)).unwrap();
        assert!(matches!(source.read_at(&mut block, BLOCK.into()), Err(Error::Changed(_))));
        assert!(matches!(source.check(), Err(Error::Changed(_))));
    }
}
