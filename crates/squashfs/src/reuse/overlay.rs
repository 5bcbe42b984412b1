//! A base image with an overlay's upper layer on it, walked as the one tree that a user saw.
//!
//! Marks of overlayfs (Linux `Documentation/filesystems/overlayfs.rst`): whiteouts, opaque and
//! redirected directories, files of which only the metadata was copied up.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::super::read::{DirEntry, Guard, Image, MAX_DEPTH};
use super::super::write::event::{Attributes, Special};
use super::super::write::scan::{self, Identity, Resolve, identity};
use super::super::write::source::{Place, version};
use super::super::write::{Error, Feeder};
use super::compare::Comparer;
use super::index::Index;
use super::survey::{Found, Tree, candidate, find};
use crate::format::metadata::Reference;
use crate::format::{Inode, Kind};
use crate::marks::mark;
use linux::dir::Names;
use linux::stat::{FileKind, Stat};
use linux::xattrs::Xattrs;

/// One step of the merged walk.
enum Step<'a> {
    /// A directory; its own metadata is the upper layer's where it is there.
    Enter {
        name: &'a [u8],
        upper: Option<(&'a Arc<Place>, &'a Stat)>,
        base: Option<&'a Inode>,
    },
    Leave,
    /// From the upper layer; `base` has the same name, or is where a moved file came from.
    Upper {
        name: &'a [u8],
        /// Where it lies: under the same name, or in the overlay's index.
        place: &'a Arc<Place>,
        file: &'a [u8],
        stat: &'a Stat,
        base: Option<(Reference, Inode)>,
        /// The upper layer has only the metadata; the content is the base's.
        metadata_only: bool,
    },
    Base {
        name: &'a [u8],
        at: Reference,
        inode: Inode,
    },
}

/// Notes which of the base's files stay; upper files that may be copies of the base's are compared:
/// a change of mode alone copies the whole file up.
pub(super) fn survey(
    image: &Image,
    tree: &Tree,
    found: &mut Found,
    comparer: &mut Comparer,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let index = std::mem::take(&mut found.index);
    let walked = walk(image, tree, &index, &mut |step| match step {
        Step::Enter { .. } if cancel.is_cancelled() => Err(Error::Cancelled),
        Step::Enter { .. } | Step::Leave => Ok(()),
        Step::Upper { place, file, stat, base, metadata_only, .. } => {
            let indexed = base.as_ref().is_some_and(|(_, inode)| inode.nlink > 1);
            let first = found.survey.count_link(stat, indexed || stat.st_nlink > 1);
            if !first || FileKind::of(stat.st_mode) != FileKind::Regular {
                return Ok(());
            }
            match base {
                Some((at, _)) if metadata_only => {
                    found.unchanged.files.insert(identity(stat), (version(stat), at));
                    Ok(())
                }
                Some((at, inode)) => {
                    candidate(place, file, stat, at, inode).map_or(Ok(()), |it| comparer.add(it))
                }
                None => Ok(()),
            }
        }
        Step::Base { at, inode, .. } => {
            if inode.nlink > 1 {
                *found.base_links.entry(at).or_default() += 1;
            }
            if let Kind::File(file) = &inode.kind
                && found.live.insert(at)
            {
                found.survey.content += file.size;
            }
            Ok(())
        }
    });
    found.index = index;
    walked
}

/// Feeds the merged tree to the pipeline.
pub(super) fn feed(
    image: &Image,
    tree: &Tree,
    found: &Found,
    resolve: Resolve,
    feeder: &mut Feeder,
) -> Result<(), Error> {
    let mut seen_upper: HashMap<Identity, u32> = HashMap::new();
    let mut seen_base: HashMap<Reference, u32> = HashMap::new();
    walk(image, tree, &found.index, &mut |step| match step {
        Step::Enter { name, upper: Some((place, stat)), .. } => {
            let xattrs = place
                .dir
                .xattrs_self()
                .map_err(|e| Error::read("read the attributes of", &place.display(b""), e))?;
            feeder.enter(name, scan::attributes(stat, place.clean(xattrs)))
        }
        Step::Enter { name, base, .. } => {
            let inode = base.expect("a directory is in one layer at least");
            feeder.enter(name, attributes(image, inode)?)
        }
        Step::Leave => feeder.leave(),
        Step::Upper { name, place, file, stat, .. } => {
            let nlink = found.survey.names(stat);
            if nlink > 1 {
                if let Some(number) = seen_upper.get(&identity(stat)) {
                    return feeder.link(name, *number);
                }
                seen_upper.insert(identity(stat), feeder.next_number());
            }
            let kept = found.unchanged.get(stat, place, file)?.map(resolve).transpose()?;
            scan::node(name, (place, file), stat, nlink, kept, feeder)
        }
        Step::Base { name, at, inode } => {
            let nlink = found.base_links.get(&at).copied().unwrap_or(1);
            if nlink > 1 {
                if let Some(number) = seen_base.get(&at) {
                    return feeder.link(name, *number);
                }
                seen_base.insert(at, feeder.next_number());
            }
            let attributes = attributes(image, &inode)?;
            let special = match inode.kind {
                Kind::File(_) => return feeder.kept(name, attributes, nlink, resolve(at)?),
                Kind::Symlink(target) => Special::Symlink(target),
                Kind::BlockDevice(device) => Special::BlockDevice(device),
                Kind::CharDevice(device) => Special::CharDevice(device),
                Kind::Fifo => Special::Fifo,
                Kind::Socket | Kind::Directory(_) => Special::Socket,
            };
            feeder.special(name, attributes, nlink, special)
        }
    })
}

fn attributes(image: &Image, inode: &Inode) -> Result<Attributes, Error> {
    let (uid, gid) = image.owner(inode)?;
    let xattrs = image.xattrs(inode)?;
    Ok(Attributes { mode: inode.mode, uid, gid, mtime: inode.mtime, xattrs })
}

struct Level {
    /// In the upper layer.
    place: Option<Arc<Place>>,
    names: Names,
    next_name: usize,
    base: Vec<DirEntry>,
    next_base: usize,
    /// Path in the merged tree.
    path: Vec<u8>,
}

fn walk(
    image: &Image,
    tree: &Tree,
    index: &Index,
    visit: &mut dyn FnMut(Step) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut walk = Merge { image, tree, index, guard: Guard::new(image), levels: Vec::new() };
    let error = |e| Error::read("open", tree.path, e);
    let dir = tree.dir.descend(b"").map_err(error)?;
    let stat = dir.stat_self().map_err(error)?;
    let top =
        Arc::new(Place { dir, path: Vec::new(), root: tree.path.into(), is_upper_layer: true });
    let at = image.root();
    let base = (!is_opaque(&top)?).then_some((at, image.inode(at)?));
    visit(Step::Enter { name: b"", upper: Some((&top, &stat)), base: None })?;
    walk.push(Some(top), base, Vec::new())?;
    while !walk.levels.is_empty() {
        walk.step(visit)?;
    }
    Ok(())
}

struct Merge<'a> {
    image: &'a Image,
    tree: &'a Tree<'a>,
    index: &'a Index,
    guard: Guard,
    levels: Vec<Level>,
}

impl Merge<'_> {
    fn push(
        &mut self,
        place: Option<Arc<Place>>,
        base: Option<(Reference, Inode)>,
        path: Vec<u8>,
    ) -> Result<(), Error> {
        if self.levels.len() >= MAX_DEPTH {
            return Err(Error::TooLarge { what: "directories in each other" });
        }
        let names = match &place {
            Some(place) => {
                place.dir.names().map_err(|e| Error::read("list", &place.display(b""), e))?
            }
            None => Names::default(),
        };
        let mut entries = Vec::new();
        if let Some((at, Inode { kind: Kind::Directory(directory), .. })) = &base {
            self.guard.enter(*at, directory)?;
            entries = self.image.list(directory)?;
        }
        let (next_name, next_base) = (0, 0);
        self.levels.push(Level { place, names, next_name, base: entries, next_base, path });
        Ok(())
    }

    /// Visits the next name of the innermost directory, or leaves it.
    fn step(&mut self, visit: &mut dyn FnMut(Step) -> Result<(), Error>) -> Result<(), Error> {
        let level = self.levels.last_mut().expect("the caller has checked");
        let upper = level.names.get(level.next_name);
        let base = level.base.get(level.next_base).map(|entry| entry.name.as_slice());
        let name = match (upper, base) {
            (None, None) => {
                self.levels.pop();
                return visit(Step::Leave);
            }
            (Some(upper), Some(base)) => upper.min(base).to_vec(),
            (Some(name), None) | (None, Some(name)) => name.to_vec(),
        };
        let (in_upper, in_base) = (upper == Some(name.as_slice()), base == Some(name.as_slice()));
        let at = in_base.then(|| level.base[level.next_base].inode);
        level.next_name += usize::from(in_upper);
        level.next_base += usize::from(in_base);
        let path = join(&level.path, &name);
        if self.tree.exclude.iter().any(|it| it.matches(&path)) {
            return Ok(());
        }
        match (level.place.clone().filter(|_| in_upper), at) {
            (Some(place), _) => self.upper(&place, &name, path, visit),
            (None, Some(at)) => self.base(&name, at, path, visit),
            (None, None) => Ok(()),
        }
    }

    fn base(
        &mut self,
        name: &[u8],
        at: Reference,
        path: Vec<u8>,
        visit: &mut dyn FnMut(Step) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let inode = self.image.inode(at)?;
        if !matches!(inode.kind, Kind::Directory(_)) {
            if let Some((place, file, stat)) = self.index.get(inode.number) {
                let marks = marks(place.dir.xattrs(file), &|| place.display(file))?;
                let metadata_only = marks.contains_key(&b"metacopy"[..]);
                let base = Some((at, inode));
                return visit(Step::Upper { name, place, file, stat, base, metadata_only });
            }
            return visit(Step::Base { name, at, inode });
        }
        visit(Step::Enter { name, upper: None, base: Some(&inode) })?;
        self.push(None, Some((at, inode)), path)
    }

    fn upper(
        &mut self,
        place: &Arc<Place>,
        name: &[u8],
        path: Vec<u8>,
        visit: &mut dyn FnMut(Step) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let shown = || place.display(name);
        let stat = place.dir.stat(name).map_err(|e| Error::read("stat", &shown(), e))?;
        if identity(&stat) == self.tree.skip {
            return Ok(());
        }
        if FileKind::of(stat.st_mode) == FileKind::Directory {
            let child = scan::child(place, name)?;
            let marks = marks(child.dir.xattrs_self(), &shown)?;
            let opaque = marks.get(&b"opaque"[..]).is_some_and(|value| value == b"y");
            let base = if opaque { None } else { self.origin(name, &marks)? };
            let base = base.filter(|(_, inode)| matches!(inode.kind, Kind::Directory(_)));
            visit(Step::Enter { name, upper: Some((&child, &stat)), base: None })?;
            return self.push(Some(child), base, path);
        }
        if FileKind::of(stat.st_mode) == FileKind::CharDevice && stat.st_rdev == 0 {
            return Ok(());
        }
        let mut metadata_only = false;
        let mut base = None;
        if FileKind::of(stat.st_mode) == FileKind::Regular {
            let marks = marks(place.dir.xattrs(name), &shown)?;
            if stat.st_size == 0 && marks.contains_key(&b"whiteout"[..]) {
                return Ok(());
            }
            metadata_only = marks.contains_key(&b"metacopy"[..]);
            base = self.origin(name, &marks)?;
            if metadata_only && base.is_none() {
                return Err(Error::OverlayOrigin(shown()));
            }
        }
        visit(Step::Upper { name, place, file: name, stat: &stat, base, metadata_only })
    }

    /// What the upper layer's `name` lies on in the base: the same name, or where it was moved from.
    fn origin(
        &self,
        name: &[u8],
        marks: &HashMap<Vec<u8>, Vec<u8>>,
    ) -> Result<Option<(Reference, Inode)>, Error> {
        let level = self.levels.last().expect("a name is in a directory");
        match marks.get(&b"redirect"[..]) {
            Some(path) if path.starts_with(b"/") => self.lookup(path),
            Some(other) => find(self.image, &level.base, other),
            None => find(self.image, &level.base, name),
        }
    }

    /// Looks up a path from the base's root.
    fn lookup(&self, path: &[u8]) -> Result<Option<(Reference, Inode)>, Error> {
        let at = self.image.root();
        let mut current = (at, self.image.inode(at)?);
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let Kind::Directory(directory) = &current.1.kind else {
                return Ok(None);
            };
            match find(self.image, &self.image.list(directory)?, name)? {
                Some(next) => current = next,
                None => return Ok(None),
            }
        }
        Ok(Some(current))
    }
}

fn is_opaque(place: &Place) -> Result<bool, Error> {
    let marks = marks(place.dir.xattrs_self(), &|| place.display(b""))?;
    Ok(marks.get(&b"opaque"[..]).is_some_and(|value| value == b"y"))
}

/// Overlayfs's marks on something in the upper layer.
fn marks(
    xattrs: std::io::Result<Xattrs>,
    shown: &dyn Fn() -> std::path::PathBuf,
) -> Result<HashMap<Vec<u8>, Vec<u8>>, Error> {
    let xattrs = xattrs.map_err(|e| Error::read("read the attributes of", &shown(), e))?;
    Ok(xattrs
        .into_iter()
        .filter_map(|(name, value)| mark(&name).map(|mark| (mark.to_vec(), value)))
        .collect())
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}
