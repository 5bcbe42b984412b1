//! Finds out which files of the base stay: the walk that comes before the one that packs.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use tokio_util::sync::CancellationToken;

use super::super::read::{DirEntry, Guard, Image};
use super::super::write::scan::{self, Identity, Step, Survey, Unchanged, identity};
use super::super::write::source::{Place, version};
use super::super::write::{Error, Exclude};
use super::compare::{Candidate, Comparer};
use super::index::Index;
use super::{Changes, overlay};
use crate::format::metadata::Reference;
use crate::format::{Inode, Kind};
use linux::dir::Dir;
use linux::stat::{FileKind, Stat};

/// The directory that is walked: the tree, or an overlay's upper layer.
pub(super) struct Tree<'a> {
    pub dir: &'a Dir,
    pub path: &'a Path,
    pub exclude: &'a [Exclude],
    /// The image that is being written.
    pub skip: Identity,
}

/// What stays of the base.
#[derive(Default)]
pub(super) struct Found {
    pub survey: Survey,
    /// Files of the directory whose content the base has.
    pub unchanged: Unchanged,
    /// Names in the merged tree of the base's inodes with several links.
    pub base_links: HashMap<Reference, u32>,
    /// All of the base's files that stay.
    pub live: HashSet<Reference>,
    /// Of an overlay.
    pub index: Index,
}

/// Walks the tree, and the base beside it.
pub(super) fn run(
    image: &Image,
    tree: &Tree,
    changes: Changes,
    threads: usize,
    cancel: &CancellationToken,
) -> Result<Found, Error> {
    let mut found = Found::default();
    if let Changes::Overlay { work, .. } = changes {
        found.index = Index::read(work)?;
    }
    let matches = thread::scope(|scope| {
        let mut comparer = Comparer::start(scope, image, threads, cancel);
        let walked = match changes {
            Changes::Overlay { .. } => {
                overlay::survey(image, tree, &mut found, &mut comparer, cancel)
            }
            _ => directory(image, tree, changes, &mut found, &mut comparer, cancel),
        };
        comparer.finish(walked)
    })?;
    found.unchanged.files.extend(matches);
    found.live.extend(found.unchanged.files.values().map(|(_, at)| *at));
    Ok(found)
}

/// Walks a plain directory, and the base's directories of the same paths.
fn directory(
    image: &Image,
    tree: &Tree,
    changes: Changes,
    found: &mut Found,
    comparer: &mut Comparer,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let mut base = Beside { image, guard: Guard::new(image), levels: Vec::new() };
    scan::walk(tree.dir, tree.path, tree.exclude, tree.skip, &mut |step| match step {
        Step::Enter { name, .. } => {
            if cancel.is_cancelled() {
                return Err(Error::Cancelled);
            }
            base.enter(name)
        }
        Step::Leave => {
            base.levels.pop();
            Ok(())
        }
        Step::Node { place, name, stat } => {
            let first = found.survey.count(stat);
            if !first || FileKind::of(stat.st_mode) != FileKind::Regular || stat.st_size == 0 {
                return Ok(());
            }
            if let Changes::Recorded(record) = changes
                && let Some(at) = record.unchanged(stat)
            {
                found.unchanged.files.insert(identity(stat), (version(stat), at));
                return Ok(());
            }
            let Some((at, inode)) = base.find(name)? else {
                return Ok(());
            };
            if matches!(changes, Changes::Quick) && same_time(&inode, stat) {
                found.unchanged.files.insert(identity(stat), (version(stat), at));
                return Ok(());
            }
            candidate(place, name, stat, at, inode).map_or(Ok(()), |it| comparer.add(it))
        }
    })
}

/// A file to be compared with the base's inode `at`; `None` if their sizes differ already.
pub(super) fn candidate(
    place: &Arc<Place>,
    name: &[u8],
    stat: &Stat,
    at: Reference,
    inode: Inode,
) -> Option<Candidate> {
    match inode.kind {
        Kind::File(file) if file.size == stat.st_size as u64 && file.size > 0 => {
            Some(Candidate { place: place.clone(), name: name.to_vec(), stat: *stat, at, file })
        }
        _ => None,
    }
}

fn same_time(inode: &Inode, stat: &Stat) -> bool {
    let size = match &inode.kind {
        Kind::File(file) => file.size,
        _ => return false,
    };
    size == stat.st_size as u64 && i64::from(inode.mtime) == stat.st_mtime
}

/// The base's directories of the same paths as those that are walked.
struct Beside<'a> {
    image: &'a Image,
    guard: Guard,
    /// The listings from the root down; empty where the base has no such directory.
    levels: Vec<Vec<DirEntry>>,
}

impl Beside<'_> {
    fn enter(&mut self, name: &[u8]) -> Result<(), Error> {
        let at = if self.levels.is_empty() {
            Some((self.image.root(), self.image.inode(self.image.root())?))
        } else {
            self.find(name)?
        };
        let mut entries = Vec::new();
        if let Some((at, Inode { kind: Kind::Directory(directory), .. })) = at {
            self.guard.enter(at, &directory)?;
            entries = self.image.list(&directory)?;
        }
        self.levels.push(entries);
        Ok(())
    }

    fn find(&self, name: &[u8]) -> Result<Option<(Reference, Inode)>, Error> {
        let entries = self.levels.last().map_or(&[][..], Vec::as_slice);
        find(self.image, entries, name)
    }
}

/// Looks a name up in a sorted listing.
pub(super) fn find(
    image: &Image,
    entries: &[DirEntry],
    name: &[u8],
) -> Result<Option<(Reference, Inode)>, Error> {
    match entries.binary_search_by(|entry| entry.name.as_slice().cmp(name)) {
        Ok(index) => Ok(Some((entries[index].inode, image.inode(entries[index].inode)?))),
        Err(_) => Ok(None),
    }
}
