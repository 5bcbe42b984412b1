//! Walks a directory tree in byte order: once to survey it, once to feed the pipeline.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Error;
use super::event::{Attributes, Kept, Special};
use super::exclude::Exclude;
use super::feed::Feeder;
use super::source::{Place, Request, Version, version};
use crate::format::inode::encode_device;
use crate::format::metadata::Reference;
use linux::dir::{Dir, Names};
use linux::stat::{FileKind, Stat, device_numbers};
use linux::xattrs::Xattrs;

/// Deepest directory that is entered: more levels than a path of PATH_MAX bytes can name.
pub const MAX_DEPTH: usize = 2048;

/// Device and inode number of a file: its identity while it exists.
pub(crate) type Identity = (u64, u64);

pub(crate) fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// One step of a walk. Names are relative to the place.
pub(crate) enum Step<'a> {
    Enter { place: &'a Arc<Place>, name: &'a [u8], stat: &'a Stat },
    Leave,
    Node { place: &'a Arc<Place>, name: &'a [u8], stat: &'a Stat },
}

struct Level {
    place: Arc<Place>,
    names: Names,
    next: usize,
}

/// Visits everything below `root`, itself included, without what is excluded and without the file
/// `skip` (the image that is being written, should it lie in the tree).
pub(crate) fn walk(
    root: &Dir,
    root_path: &Path,
    exclude: &[Exclude],
    skip: Identity,
    visit: &mut dyn FnMut(Step) -> Result<(), Error>,
) -> Result<(), Error> {
    let dir = root.descend(b"").map_err(|e| Error::read("open", root_path, e))?;
    let stat = dir.stat_self().map_err(|e| Error::read("stat", root_path, e))?;
    let (path, root) = (Vec::new(), root_path.into());
    let top = Arc::new(Place { dir, path, root, is_upper_layer: false });
    visit(Step::Enter { place: &top, name: b"", stat: &stat })?;
    let mut levels = vec![level(top)?];
    while let Some(current) = levels.last_mut() {
        let Some(name) = current.names.get(current.next) else {
            levels.pop();
            visit(Step::Leave)?;
            continue;
        };
        current.next += 1;
        let place = &current.place;
        if !exclude.is_empty() && exclude.iter().any(|it| it.matches(&place.below(name))) {
            continue;
        }
        let stat =
            place.dir.stat(name).map_err(|e| Error::read("stat", &place.display(name), e))?;
        if identity(&stat) == skip {
            continue;
        }
        if FileKind::of(stat.st_mode) != FileKind::Directory {
            visit(Step::Node { place, name, stat: &stat })?;
            continue;
        }
        let child = child(place, name)?;
        visit(Step::Enter { place: &child, name, stat: &stat })?;
        if levels.len() >= MAX_DEPTH {
            return Err(Error::TooLarge { what: "directories in each other" });
        }
        levels.push(level(child)?);
    }
    Ok(())
}

fn level(place: Arc<Place>) -> Result<Level, Error> {
    let names = place.dir.names().map_err(|e| Error::read("list", &place.display(b""), e))?;
    Ok(Level { place, names, next: 0 })
}

/// Opens a directory below a place.
pub(crate) fn child(place: &Arc<Place>, name: &[u8]) -> Result<Arc<Place>, Error> {
    let dir = place.dir.child(name).map_err(|e| Error::read("enter", &place.display(name), e))?;
    let (path, root) = (place.below(name), place.root.clone());
    Ok(Arc::new(Place { dir, path, root, is_upper_layer: place.is_upper_layer }))
}

/// What a first walk finds out.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Names in the tree of every inode that has more than one link.
    pub links: HashMap<Identity, u32>,
    /// Bytes of content in all files, each inode once.
    pub content: u64,
}

impl Survey {
    /// Counts one name; true if it is the inode's first.
    pub(crate) fn count(&mut self, stat: &Stat) -> bool {
        self.count_link(stat, stat.st_nlink > 1)
    }

    /// The same for an inode of which the caller knows whether it can have other names in the tree.
    pub(crate) fn count_link(&mut self, stat: &Stat, linked: bool) -> bool {
        let first = if linked {
            let names = self.links.entry(identity(stat)).or_default();
            *names += 1;
            *names == 1
        } else {
            true
        };
        if first && FileKind::of(stat.st_mode) == FileKind::Regular {
            self.content += stat.st_size as u64;
        }
        first
    }

    /// How many names of the inode are in the tree.
    pub(crate) fn names(&self, stat: &Stat) -> u32 {
        self.links.get(&identity(stat)).copied().unwrap_or(1)
    }
}

/// Counts links and bytes, so that a file's link count is that of the tree and progress has a total.
pub(crate) fn survey(
    root: &Dir,
    root_path: &Path,
    exclude: &[Exclude],
    skip: Identity,
    cancel: &CancellationToken,
) -> Result<Survey, Error> {
    let mut survey = Survey::default();
    walk(root, root_path, exclude, skip, &mut |step| {
        if let Step::Node { stat, .. } = step {
            survey.count(stat);
        } else if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        Ok(())
    })?;
    Ok(survey)
}

/// Files whose content a base image holds: by identity, what stat(2) returned when that was seen, and the
/// place of the inode in the base.
#[derive(Debug, Default)]
pub(crate) struct Unchanged {
    pub files: HashMap<Identity, (Version, Reference)>,
}

impl Unchanged {
    /// The base's inode for a file; an error if the file has changed since it was compared: its old
    /// content would stay in the image.
    pub(crate) fn get(
        &self,
        stat: &Stat,
        place: &Place,
        name: &[u8],
    ) -> Result<Option<Reference>, Error> {
        match self.files.get(&identity(stat)) {
            None => Ok(None),
            Some((seen, at)) if *seen == version(stat) => Ok(Some(*at)),
            Some(_) => Err(Error::Changed(place.display(name))),
        }
    }
}

/// Where the content of a base's inode is in the new image.
pub(crate) type Resolve<'a> = &'a dyn Fn(Reference) -> Result<Kept, Error>;

/// Feeds the tree to the pipeline.
pub(crate) fn feed(
    root: &Dir,
    root_path: &Path,
    exclude: &[Exclude],
    skip: Identity,
    survey: &Survey,
    unchanged: (&Unchanged, Resolve),
    feeder: &mut Feeder,
) -> Result<(), Error> {
    let mut seen: HashMap<Identity, u32> = HashMap::new();
    walk(root, root_path, exclude, skip, &mut |step| match step {
        Step::Enter { place, name, stat } => {
            let xattrs = place
                .dir
                .xattrs_self()
                .map_err(|e| Error::read("read the attributes of", &place.display(b""), e))?;
            feeder.enter(name, attributes(stat, xattrs))
        }
        Step::Leave => feeder.leave(),
        Step::Node { place, name, stat } => {
            let nlink = survey.names(stat);
            if nlink > 1 {
                if let Some(number) = seen.get(&identity(stat)) {
                    return feeder.link(name, *number);
                }
                seen.insert(identity(stat), feeder.next_number());
            }
            let kept = unchanged.0.get(stat, place, name)?.map(unchanged.1).transpose()?;
            node(name, (place, name), stat, nlink, kept, feeder)
        }
    })
}

/// Feeds one thing that is no directory as `name`; `source` is where it lies.
pub(crate) fn node(
    name: &[u8],
    source: (&Arc<Place>, &[u8]),
    stat: &Stat,
    nlink: u32,
    kept: Option<Kept>,
    feeder: &mut Feeder,
) -> Result<(), Error> {
    let (place, file) = source;
    if FileKind::of(stat.st_mode) == FileKind::Regular && kept.is_none() {
        let request = Request { place: place.clone(), name: file.to_vec(), stat: *stat };
        return feeder.file(name, request, nlink);
    }
    let xattrs = place
        .dir
        .xattrs(file)
        .map_err(|e| Error::read("read the attributes of", &place.display(file), e))?;
    let attributes = attributes(stat, place.clean(xattrs));
    if let Some(kept) = kept {
        return feeder.kept(name, attributes, nlink, kept);
    }
    feeder.special(name, attributes, nlink, special(place, file, stat)?)
}

fn special(place: &Place, name: &[u8], stat: &Stat) -> Result<Special, Error> {
    let device = || {
        let (major, minor) = device_numbers(stat.st_rdev);
        encode_device(major.into(), minor.into())
    };
    Ok(match FileKind::of(stat.st_mode) {
        FileKind::Symlink => Special::Symlink(
            place
                .dir
                .read_link(name)
                .map_err(|e| Error::read("read the link", &place.display(name), e))?
                .into_encoded_bytes(),
        ),
        FileKind::BlockDevice => Special::BlockDevice(device()),
        FileKind::CharDevice => Special::CharDevice(device()),
        FileKind::Fifo => Special::Fifo,
        _ => Special::Socket,
    })
}

/// An inode's attributes from stat(2); the feeder limits the time.
pub(crate) fn attributes(stat: &Stat, xattrs: Xattrs) -> Attributes {
    Attributes {
        mode: (stat.st_mode & 0o7777) as u16,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: u32::try_from(stat.st_mtime.max(0)).unwrap_or(u32::MAX),
        xattrs,
    }
}
