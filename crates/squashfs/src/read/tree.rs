//! Walks an image's tree without recursion; loops and shared directories end with an error.

use std::collections::HashSet;

use super::Error;
use super::directory::DirEntry;
use super::image::Image;
use crate::format::inode::Directory;
use crate::format::metadata::{BLOCK, Reference};
use crate::format::{Inode, Kind};

/// Deepest directory that is entered: more levels than a path of PATH_MAX bytes can name.
pub const MAX_DEPTH: usize = 2048;

/// Lets each directory be entered once, and all listings together be no longer than their table.
pub struct Guard {
    entered: HashSet<Reference>,
    left: u64,
    position: u64,
}

impl Guard {
    /// For one walk of `image`.
    pub fn new(image: &Image) -> Self {
        let superblock = image.superblock();
        let table = superblock.bytes_used - superblock.directory_table;
        // A metadata block takes three bytes at the least and gives at most 8 KiB.
        let left = table.div_ceil(3).saturating_mul(BLOCK as u64);
        Self { entered: HashSet::new(), left, position: superblock.directory_table }
    }

    /// Notes that a directory is entered; an error if it was before.
    pub fn enter(&mut self, at: Reference, directory: &Directory) -> Result<(), Error> {
        if !self.entered.insert(at) {
            return Err(Error::damaged("a directory with two parents", self.position));
        }
        self.left = self
            .left
            .checked_sub(directory.size.into())
            .ok_or(Error::damaged("overlapping directory listings", self.position))?;
        Ok(())
    }
}

/// Something in the tree.
#[derive(Debug, Clone)]
pub struct Node {
    /// Relative to the root; empty for the root itself.
    pub path: Vec<u8>,
    /// Place of the inode: names with the same place are hard links.
    pub at: Reference,
    /// What is there.
    pub inode: Inode,
}

impl Node {
    /// The last component of the path.
    pub fn name(&self) -> &[u8] {
        let start = self.path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        &self.path[start..]
    }
}

/// One step of a walk; a directory's content comes between its `Enter` and `Leave`.
#[derive(Debug)]
pub enum Step {
    /// A directory, before its entries.
    Enter(Node),
    /// Something else.
    Node(Node),
    /// The end of the directory that was entered last.
    Leave,
}

struct Level {
    path: Vec<u8>,
    entries: std::vec::IntoIter<DirEntry>,
}

/// An iterator over the whole tree in byte order of the names.
pub struct Walker<'a> {
    image: &'a Image,
    guard: Guard,
    levels: Vec<Level>,
    started: bool,
}

impl<'a> Walker<'a> {
    /// Begins at the root of `image`.
    pub fn new(image: &'a Image) -> Self {
        Self { image, guard: Guard::new(image), levels: Vec::new(), started: false }
    }

    fn step(&mut self) -> Result<Option<Step>, Error> {
        if !self.started {
            self.started = true;
            let at = self.image.root();
            let inode = self.image.inode(at)?;
            if !matches!(inode.kind, Kind::Directory(_)) {
                return Err(Error::damaged("the root is not a directory", at.block()));
            }
            return self.enter(Node { path: Vec::new(), at, inode }).map(Some);
        }
        let Some(level) = self.levels.last_mut() else {
            return Ok(None);
        };
        let Some(entry) = level.entries.next() else {
            self.levels.pop();
            return Ok(Some(Step::Leave));
        };
        let mut path = level.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&entry.name);
        let node = Node { path, at: entry.inode, inode: self.image.inode(entry.inode)? };
        match node.inode.kind {
            Kind::Directory(_) => self.enter(node).map(Some),
            _ => Ok(Some(Step::Node(node))),
        }
    }

    fn enter(&mut self, node: Node) -> Result<Step, Error> {
        if let Kind::Directory(directory) = &node.inode.kind {
            self.guard.enter(node.at, directory)?;
            if self.levels.len() >= MAX_DEPTH {
                return Err(Error::damaged("directories nested too deep", node.at.block()));
            }
            let entries = self.image.list(directory)?.into_iter();
            self.levels.push(Level { path: node.path.clone(), entries });
        }
        Ok(Step::Enter(node))
    }
}

impl Iterator for Walker<'_> {
    type Item = Result<Step, Error>;

    /// After an error the walk is over.
    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if matches!(step, Some(Err(_))) {
            self.levels.clear();
        }
        step
    }
}
