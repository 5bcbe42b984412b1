//! Names in an archive: split into components, so that none points outside the directory.

use std::io;

use super::{Error, Refused};
use linux::dir::Dir;
use linux::stat::FileKind;

/// The path of an entry: one part at least, none of them `.`, `..` or empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(Vec<Vec<u8>>);

impl Name {
    /// `None` is the directory itself (`./`). An absolute path and one with `..` are refused, even
    /// where it would end up inside.
    pub fn parse(path: &[u8]) -> Result<Option<Self>, Error> {
        let refused = |why| Error::Refused { name: shown(path), why };
        if path.starts_with(b"/") {
            return Err(refused(Refused::Absolute));
        }
        if path.contains(&0) {
            return Err(refused(Refused::Unknown));
        }
        let mut parts = Vec::new();
        for part in path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(refused(Refused::Parent)),
                part => parts.push(part.to_vec()),
            }
        }
        Ok(if parts.is_empty() { None } else { Some(Self(parts)) })
    }

    pub fn parts(&self) -> &[Vec<u8>] {
        &self.0
    }

    /// The parts of its directory.
    pub fn parent(&self) -> &[Vec<u8>] {
        &self.0[..self.0.len() - 1]
    }

    pub fn parent_path(&self) -> Vec<u8> {
        self.parent().join(&b'/')
    }

    pub fn last(&self) -> &[u8] {
        self.0.last().expect("a name has one part at least")
    }

    pub fn path(&self) -> Vec<u8> {
        self.0.join(&b'/')
    }

    pub fn shown(&self) -> String {
        shown(&self.path())
    }

    pub fn refused(&self, why: Refused) -> Error {
        Error::Refused { name: self.shown(), why }
    }

    pub fn not_written(&self, source: io::Error) -> Error {
        Error::Write { name: self.shown(), source }
    }

    /// A directory on the way cannot be entered: because an earlier entry made a link of it?
    pub fn way_is_barred(&self, dir: &Dir, part: &[u8], source: io::Error) -> Error {
        let kind = dir.stat(part).map(|stat| FileKind::of(stat.st_mode));
        match kind {
            Ok(FileKind::Symlink) => self.refused(Refused::ThroughLink { link: shown(part) }),
            _ => self.not_written(source),
        }
    }
}

/// The directory and the last part of a path as [`Name::path`] gives it.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// A name as an error shows it.
pub(super) fn shown(name: &[u8]) -> String {
    const LONGEST: usize = 300;
    let text = String::from_utf8_lossy(name);
    let mut text: String = text.chars().flat_map(char::escape_debug).take(LONGEST).collect();
    if text.is_empty() {
        text.push_str("(an empty name)");
    }
    text
}
