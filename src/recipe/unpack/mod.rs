//! Unpacks the archive of a recipe, which is not trusted.
//!
//! Nothing is written outside the directory: every name is split into components, and every parent
//! directory is opened without following a link. File types that a recipe does not need are refused
//! with the name of the entry.

mod compression;
mod error;
mod links;
mod names;
mod survey;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::path::Path;

use tar::{Archive, Entry, EntryType};
use tokio_util::sync::CancellationToken;

pub use error::{Error, Refused};

use linux::dir::Dir;
use linux::stat::FileKind;
use names::{Name, shown};

/// What an archive may grow to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all files together.
    pub size: u64,
    pub entries: u64,
}

impl Default for Limits {
    /// Recipes are a few files; one that carries a whole root as an overlay is large.
    fn default() -> Self {
        Self { size: 4 << 30, entries: 200_000 }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    pub entries: u64,
    /// Bytes of all files together.
    pub size: u64,
}

/// Unpacks `archive` (tar: plain, gzip, zstd or xz) into the directory `into`, which exists.
///
/// The archive is looked through before anything is written. On an error remove the directory: it
/// may hold a part of the archive.
pub fn unpack(
    archive: &Path,
    into: &Path,
    limits: &Limits,
    cancel: &CancellationToken,
) -> Result<Unpacked, Error> {
    survey::survey(archive, limits, cancel)?;
    let root = Dir::open(into).map_err(|source| Error::Read { path: into.into(), source })?;
    let mut unpacker = Unpacker {
        root,
        limits,
        links: Vec::new(),
        times: Vec::new(),
        done: Unpacked { entries: 0, size: 0 },
    };
    let broken = |source| Error::Broken { path: archive.into(), source };
    let mut archive_reader = Archive::new(compression::open(archive)?);
    for entry in archive_reader.entries().map_err(broken)? {
        if cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        unpacker.add(entry.map_err(broken)?)?;
    }
    unpacker.finish(into)
}

struct Unpacker<'a> {
    root: Dir,
    limits: &'a Limits,
    /// Created links, to be checked when everything is unpacked.
    links: Vec<Vec<u8>>,
    /// Directories and their times: what is put into one changes it.
    times: Vec<(Vec<u8>, u64)>,
    done: Unpacked,
}

impl Unpacker<'_> {
    fn add(&mut self, mut entry: Entry<impl Read>) -> Result<(), Error> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let name = Name::parse(&entry.path_bytes())?;
        let Some(name) = name else {
            // `./`, the directory itself.
            return Ok(());
        };
        self.done.entries += 1;
        match kind {
            EntryType::Directory => self.directory(&name, &entry),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.file(&name, &mut entry)
            }
            EntryType::Symlink => self.symlink(&name, &entry),
            EntryType::Link => self.hard_link(&name, &entry),
            EntryType::Char | EntryType::Block => Err(name.refused(Refused::Device)),
            EntryType::Fifo => Err(name.refused(Refused::Fifo)),
            _ => Err(name.refused(Refused::Unknown)),
        }
    }

    fn directory(&mut self, name: &Name, entry: &Entry<impl Read>) -> Result<(), Error> {
        self.make_directories(name, name.parts())?;
        let parent = self.make_directories(name, name.parent())?;
        self.attributes(&parent, name, entry)?;
        let time = entry.header().mtime().unwrap_or_default();
        self.times.push((name.path(), time));
        Ok(())
    }

    fn file(&mut self, name: &Name, entry: &mut Entry<impl Read>) -> Result<(), Error> {
        let parent = self.make_directories(name, name.parent())?;
        self.make_room(&parent, name)?;
        self.done.size += entry.size();
        if self.done.size > self.limits.size {
            return Err(name.refused(Refused::TooLarge { limit: self.limits.size }));
        }
        let write = |source| name.not_written(source);
        let mut file = parent.make_file(name.last()).map_err(write)?;
        std::io::copy(entry, &mut file).map_err(write)?;
        drop(file);
        self.attributes(&parent, name, entry)?;
        self.time(&parent, name, entry)
    }

    fn symlink(&mut self, name: &Name, entry: &Entry<impl Read>) -> Result<(), Error> {
        let target = entry.link_name_bytes().unwrap_or_default();
        if !links::stays_inside(name, &target) {
            return Err(name.refused(Refused::LinkOutside { target: shown(&target) }));
        }
        let parent = self.make_directories(name, name.parent())?;
        self.make_room(&parent, name)?;
        let write = |source| name.not_written(source);
        parent.make_symlink(name.last(), &*target).map_err(write)?;
        let (uid, gid) = owner(entry);
        parent.set_owner(name.last(), uid, gid).map_err(write)?;
        self.links.push(name.path());
        self.time(&parent, name, entry)
    }

    fn hard_link(&mut self, name: &Name, entry: &Entry<impl Read>) -> Result<(), Error> {
        let target = entry.link_name_bytes().unwrap_or_default();
        let outside = || name.refused(Refused::LinkOutside { target: shown(&target) });
        let Ok(Some(old)) = Name::parse(&target) else { return Err(outside()) };
        // The way to it goes through no link either, and it is a file of this archive.
        let no_file =
            |source| Error::LinkToNothing { name: name.shown(), target: old.shown(), source };
        let old_parent = self.root.descend(&old.parent_path()).map_err(no_file)?;
        let stat = old_parent.stat(old.last()).map_err(no_file)?;
        if FileKind::of(stat.st_mode) != FileKind::Regular {
            return Err(name.refused(Refused::LinkToNoFile { target: old.shown() }));
        }
        let parent = self.make_directories(name, name.parent())?;
        self.make_room(&parent, name)?;
        parent
            .make_link(name.last(), &old_parent, old.last())
            .map_err(|source| name.not_written(source))
    }

    /// The directory of these parts; what is missing of it is created.
    fn make_directories(&self, name: &Name, parts: &[Vec<u8>]) -> Result<Dir, Error> {
        let mut dir = self.root.descend(b"").map_err(|source| name.not_written(source))?;
        for part in parts {
            let next = match dir.child(part) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    dir.make_dir(part, 0o755)
                }
                other => other,
            };
            dir = next.map_err(|source| name.way_is_barred(&dir, part, source))?;
        }
        Ok(dir)
    }

    /// A later entry takes the place of an earlier one, as tar has it.
    fn make_room(&self, parent: &Dir, name: &Name) -> Result<(), Error> {
        parent.remove(name.last()).map_err(|source| name.not_written(source))
    }

    fn attributes(&self, dir: &Dir, name: &Name, entry: &Entry<impl Read>) -> Result<(), Error> {
        let (uid, gid) = owner(entry);
        let mode = entry.header().mode().unwrap_or(0o644) & 0o7777;
        // The owner first: changing it clears set-id bits.
        dir.set_owner(name.last(), uid, gid)
            .and_then(|()| dir.set_mode(name.last(), mode))
            .map_err(|source| name.not_written(source))
    }

    fn time(&self, dir: &Dir, name: &Name, entry: &Entry<impl Read>) -> Result<(), Error> {
        let seconds = entry.header().mtime().unwrap_or_default();
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        dir.set_times(name.last(), (seconds.into(), 0)).map_err(|source| name.not_written(source))
    }

    /// Looks where the links lead now that everything is there, and sets the directories' times.
    fn finish(self, into: &Path) -> Result<Unpacked, Error> {
        let write = |source| Error::Read { path: into.into(), source };
        for link in &self.links {
            links::check(&self.root, link)?;
        }
        for (path, time) in self.times.iter().rev() {
            let (parent, last) = names::split(path);
            let time = u32::try_from(*time).unwrap_or(u32::MAX);
            let set = |dir: Dir| dir.set_times(last, (time.into(), 0));
            self.root.descend(parent).and_then(set).map_err(write)?;
        }
        Ok(self.done)
    }
}

/// An archive made by a user's own tar may hold any owner; one that does not fit is root.
fn owner(entry: &Entry<impl Read>) -> (u32, u32) {
    let id = |id: std::io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok()).unwrap_or(0);
    (id(entry.header().uid()), id(entry.header().gid()))
}
