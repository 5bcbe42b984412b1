//! Finds files whose content was packed before. Size and hash find candidates; only a comparison of
//! all bytes makes a duplicate: two files may share their first block, or a hash, and differ.
//!
//! Candidates are read again from the tree, so the index keeps paths, packed close: a million files
//! take about 80 MB.

use std::collections::HashMap;
use std::fs::File;
use std::hash::Hasher;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::Error;
use super::source::{Place, SourceFile, hash};
use crate::format::inode::Tail;
use linux::dir::Dir;

/// Bytes that are compared at a time.
const STEP: usize = 1 << 20;

/// The end of a chain.
const END: u32 = u32::MAX;

/// What was packed so far.
pub(super) struct Duplicates<'a> {
    root: &'a Dir,
    root_path: &'a Path,
    paths: Paths,
    small: Vec<Small>,
    /// Last of the small files with a hash.
    by_hash: HashMap<u64, u32>,
    large: Vec<Large>,
    /// Last of the large files with a size.
    by_size: HashMap<u64, u32>,
}

struct Small {
    path: PathId,
    length: u32,
    tail: Tail,
    /// Another small file with the same hash.
    next: u32,
}

struct Large {
    path: PathId,
    /// Its number among the files with blocks.
    number: u32,
    /// Of the first block and of all; found out when a second file of the size comes by.
    first: Option<u64>,
    whole: Option<u64>,
    next: u32,
}

impl<'a> Duplicates<'a> {
    pub(super) fn new(root: &'a Dir, root_path: &'a Path) -> Self {
        Self {
            root,
            root_path,
            paths: Paths::default(),
            small: Vec::new(),
            by_hash: HashMap::new(),
            large: Vec::new(),
            by_size: HashMap::new(),
        }
    }

    /// Where a small file with the same bytes was packed.
    pub(super) fn find_small(&self, bytes: &[u8], hash: u64) -> Result<Option<Tail>, Error> {
        let mut at = self.by_hash.get(&hash).copied().unwrap_or(END);
        while let Some(candidate) = self.small.get(at as usize) {
            if candidate.length as usize == bytes.len() {
                let (file, path) = self.open(candidate.path)?;
                let mut other = vec![0; bytes.len()];
                read(&file, &mut other, 0, &path)?;
                if other == bytes {
                    return Ok(Some(candidate.tail));
                }
            }
            at = candidate.next;
        }
        Ok(None)
    }

    pub(super) fn add_small(
        &mut self,
        place: &Arc<Place>,
        name: &[u8],
        length: usize,
        hash: u64,
        tail: Tail,
    ) {
        let path = self.paths.add(place, name, self.root_path);
        let number = self.small.len() as u32;
        let next = self.by_hash.insert(hash, number).unwrap_or(END);
        self.small.push(Small { path, length: length as u32, tail, next });
    }

    /// The number of a file with blocks that has the same bytes.
    pub(super) fn find_large(
        &mut self,
        source: &SourceFile,
        block_size: u32,
    ) -> Result<Option<u32>, Error> {
        let mut at = self.by_size.get(&source.size()).copied().unwrap_or(END);
        if at == END {
            return Ok(None);
        }
        let mut block = vec![0; block_size as usize];
        source.read_at(&mut block, 0)?;
        let first = hash(&block);
        let mut whole = None;
        while at != END {
            let index = at as usize;
            at = self.large[index].next;
            if self.is_same(index, source, first, &mut block, &mut whole)? {
                return Ok(Some(self.large[index].number));
            }
        }
        Ok(None)
    }

    pub(super) fn add_large(&mut self, place: &Arc<Place>, name: &[u8], size: u64, number: u32) {
        let path = self.paths.add(place, name, self.root_path);
        let index = self.large.len() as u32;
        let next = self.by_size.insert(size, index).unwrap_or(END);
        self.large.push(Large { path, number, first: None, whole: None, next });
    }

    /// Compares by first block, then by hash of all, then by all bytes: many files of one size that
    /// differ late cost each one pass, not one for every pair.
    fn is_same(
        &mut self,
        index: usize,
        source: &SourceFile,
        first: u64,
        block: &mut [u8],
        whole: &mut Option<u64>,
    ) -> Result<bool, Error> {
        let (file, path) = self.open(self.large[index].path)?;
        if self.large[index].first.is_none() {
            read(&file, block, 0, &path)?;
            self.large[index].first = Some(hash(block));
        }
        if self.large[index].first != Some(first) {
            return Ok(false);
        }
        let size = source.size();
        if self.large[index].whole.is_none() {
            let other = |buffer: &mut [u8], at| read(&file, buffer, at, &path);
            self.large[index].whole = Some(hash_all(size, other)?);
        }
        if whole.is_none() {
            *whole = Some(hash_all(size, |buffer, at| source.read_at(buffer, at))?);
        }
        if self.large[index].whole != *whole {
            return Ok(false);
        }
        equal(size, source, |buffer, at| read(&file, buffer, at, &path))
    }

    fn open(&self, id: PathId) -> Result<(File, std::path::PathBuf), Error> {
        let (dir, name) = self.paths.get(id);
        let (path, file) = match dir {
            Parent::Below(dir) => {
                let path = self.root_path.join(bytes_path(dir)).join(bytes_path(name));
                (path, self.root.descend(dir).and_then(|dir| dir.open_file(name)))
            }
            Parent::Apart(place) => (place.display(name), place.dir.open_file(name)),
        };
        let file = file.map_err(|e| Error::read("reopen", &path, e))?;
        Ok((file, path))
    }
}

fn bytes_path(name: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(name))
}

fn read(file: &File, buffer: &mut [u8], offset: u64, path: &Path) -> Result<(), Error> {
    file.read_exact_at(buffer, offset).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => Error::Changed(path.to_owned()),
        _ => Error::read("reread", path, e),
    })
}

fn hash_all(size: u64, read: impl Fn(&mut [u8], u64) -> Result<(), Error>) -> Result<u64, Error> {
    let mut hasher = twox_hash::XxHash3_64::new();
    let mut buffer = vec![0; STEP];
    for (at, length) in steps(size) {
        read(&mut buffer[..length], at)?;
        hasher.write(&buffer[..length]);
    }
    Ok(hasher.finish())
}

fn equal(
    size: u64,
    source: &SourceFile,
    other: impl Fn(&mut [u8], u64) -> Result<(), Error>,
) -> Result<bool, Error> {
    let (mut a, mut b) = (vec![0; STEP], vec![0; STEP]);
    for (at, length) in steps(size) {
        source.read_at(&mut a[..length], at)?;
        other(&mut b[..length], at)?;
        if a[..length] != b[..length] {
            return Ok(false);
        }
    }
    Ok(true)
}

fn steps(size: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..size).step_by(STEP).map(move |at| (at, (size - at).min(STEP as u64) as usize))
}

#[derive(Debug, Clone, Copy)]
struct PathId {
    dir: u32,
    start: u32,
    length: u16,
}

/// The directory of a file.
enum Parent {
    /// By its path below the root.
    Below(Box<[u8]>),
    /// It lies elsewhere: the index of an overlay, in which a changed file lies that has several names.
    Apart(Arc<Place>),
}

impl Parent {
    fn is(&self, place: &Arc<Place>) -> bool {
        match self {
            Self::Below(path) => **path == *place.path,
            Self::Apart(other) => Arc::ptr_eq(other, place),
        }
    }
}

/// Paths by directory and name; files of one directory come together, so each is kept once.
#[derive(Default)]
struct Paths {
    dirs: Vec<Parent>,
    names: Vec<u8>,
}

impl Paths {
    fn add(&mut self, place: &Arc<Place>, name: &[u8], root: &Path) -> PathId {
        let is_apart = *place.root != *root;
        let known = |dir: &Parent| matches!(dir, Parent::Apart(_)) == is_apart && dir.is(place);
        if !self.dirs.last().is_some_and(known) {
            self.dirs.push(match is_apart {
                true => Parent::Apart(Arc::clone(place)),
                false => Parent::Below(place.path.clone().into()),
            });
        }
        let start = self.names.len() as u32;
        self.names.extend_from_slice(name);
        PathId { dir: self.dirs.len() as u32 - 1, start, length: name.len() as u16 }
    }

    fn get(&self, id: PathId) -> (&Parent, &[u8]) {
        let start = id.start as usize;
        (&self.dirs[id.dir as usize], &self.names[start..start + usize::from(id.length)])
    }
}
