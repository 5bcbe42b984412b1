//! Hard links of the base that were changed through an overlay with `index=on`.
//!
//! Such an overlay keeps a changed inode in `index` of its work directory, named by the file handle
//! of the base's inode in hexadecimal, and shows it under every name that the base has for it, also
//! after the name it was changed by is gone (Linux `Documentation/filesystems/overlayfs.rst`, "Index
//! directory"; `struct ovl_fb` in `fs/overlayfs/overlayfs.h`).

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::super::write::Error;
use super::super::write::source::Place;
use linux::dir::Dir;
use linux::stat::{FileKind, Stat};

/// Bytes of `ovl_fb` before the file system's own handle: version, magic, length, flags, type, uuid.
const HEADER: usize = 5 + 16;
const MAGIC: u8 = 0xfb;
/// `FILEID_INO32_GEN`, the handle that the kernel's squashfs gives: inode number and generation, 32
/// bits each.
const INO32_GEN: u8 = 1;

/// The changed inodes by the number of the base's inode.
#[derive(Default)]
pub(super) struct Index {
    entries: HashMap<u32, (Vec<u8>, Stat)>,
    place: Option<Arc<Place>>,
}

impl Index {
    /// Reads the index of an overlay's work directory; without one nothing is indexed.
    pub(super) fn read(work: Option<&Path>) -> Result<Self, Error> {
        let Some(path) = work.map(|work| work.join("index")) else { return Ok(Self::default()) };
        let dir = match Dir::open(&path) {
            Ok(dir) => dir,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::read("open", &path, error)),
        };
        let names = dir.names().map_err(|e| Error::read("list", &path, e))?;
        let mut entries = HashMap::new();
        for name in (0..).map_while(|at| names.get(at)) {
            let stat = dir.stat(name).map_err(|e| Error::read("stat", &path, e))?;
            let whiteout = FileKind::of(stat.st_mode) == FileKind::CharDevice && stat.st_rdev == 0;
            if whiteout || FileKind::of(stat.st_mode) == FileKind::Directory {
                continue;
            }
            if let Some(number) = inode_number(name) {
                entries.insert(number, (name.to_vec(), stat));
            }
        }
        let place = Place { dir, path: Vec::new(), root: path.into(), is_upper_layer: true };
        Ok(Self { entries, place: Some(Arc::new(place)) })
    }

    /// What the overlay shows instead of the base's inode `number`.
    pub(super) fn get(&self, number: u32) -> Option<(&Arc<Place>, &[u8], &Stat)> {
        let (name, stat) = self.entries.get(&number)?;
        Some((self.place.as_ref()?, name, stat))
    }
}

/// The base's inode number in the name of an index entry.
fn inode_number(name: &[u8]) -> Option<u32> {
    let handle = hex::decode(name).ok()?;
    let known = handle.get(1) == Some(&MAGIC) && handle.get(4) == Some(&INO32_GEN);
    let number = handle.get(HEADER..HEADER + 4).filter(|_| known)?;
    // In the byte order of the machine, which is the one that made it.
    Some(u32::from_ne_bytes(number.try_into().ok()?))
}
