//! What stat(2) returned for every file right after a base was unpacked: by this, unchanged files are
//! known later without reading them.

use std::collections::HashMap;
use std::path::Path;

use super::super::read::{Image, Step, Walker};
use crate::format::Kind;
use crate::format::metadata::Reference;
use crate::write::Error;
use crate::write::scan::{Identity, identity};
use linux::dir::Dir;
use linux::stat::Stat;

/// A file as it was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    size: i64,
    mtime: (i64, i64),
    /// Changes with everything that is done to an inode, and nobody can set it.
    ctime: (i64, i64),
    at: Reference,
}

/// The files of an unpacked base.
#[derive(Debug, Default)]
pub struct Record {
    files: HashMap<Identity, Seen>,
}

impl Record {
    /// Records the tree at `root`, just unpacked from `image` and not yet touched.
    pub fn new(image: &Path, root: &Path) -> Result<Self, Error> {
        let image = Image::open(image)?;
        let open = |dir: std::io::Result<Dir>| dir.map_err(|e| Error::read("open", root, e));
        let mut dirs: Vec<Dir> = Vec::new();
        let mut files = HashMap::new();
        for step in Walker::new(&image) {
            match step? {
                Step::Enter(node) => dirs.push(match dirs.last() {
                    None => open(Dir::open(root))?,
                    Some(above) => open(above.child(node.name()))?,
                }),
                Step::Leave => {
                    dirs.pop();
                }
                Step::Node(node) if matches!(node.inode.kind, Kind::File(_)) => {
                    let dir = dirs.last().expect("a walk enters the root first");
                    let stat = dir.stat(node.name()).map_err(|e| Error::read("stat", root, e))?;
                    files.insert(identity(&stat), seen(&stat, node.at));
                }
                Step::Node(_) => {}
            }
        }
        Ok(Self { files })
    }

    /// The base's inode of a file that is just as it was unpacked.
    pub fn unchanged(&self, stat: &Stat) -> Option<Reference> {
        let known = self.files.get(&identity(stat))?;
        (*known == seen(stat, known.at)).then_some(known.at)
    }
}

fn seen(stat: &Stat, at: Reference) -> Seen {
    Seen {
        size: stat.st_size,
        mtime: (stat.st_mtime, stat.st_mtime_nsec),
        ctime: (stat.st_ctime, stat.st_ctime_nsec),
        at,
    }
}
