//! Names of entries, one and many.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

/// The name of an entry: bytes, text or a path of one component.
pub trait Name {
    /// As the kernel takes it.
    fn as_name(&self) -> &OsStr;
}

impl<T: Name + ?Sized> Name for &T {
    fn as_name(&self) -> &OsStr {
        (*self).as_name()
    }
}

impl Name for [u8] {
    fn as_name(&self) -> &OsStr {
        OsStr::from_bytes(self)
    }
}

impl<const LENGTH: usize> Name for [u8; LENGTH] {
    fn as_name(&self) -> &OsStr {
        OsStr::from_bytes(self)
    }
}

impl Name for Vec<u8> {
    fn as_name(&self) -> &OsStr {
        OsStr::from_bytes(self)
    }
}

macro_rules! is_os_str {
    ($($type:ty),*) => {
        $(impl Name for $type {
            fn as_name(&self) -> &OsStr {
                self.as_ref()
            }
        })*
    };
}

is_os_str!(str, OsStr, OsString, Path, PathBuf);

/// Names of a directory in one piece of memory: a million of them are no million allocations.
#[derive(Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
    spans: Vec<(u32, u16)>,
}

impl Names {
    /// Those in the directory, in byte order.
    pub(super) fn in_directory(directory: impl AsFd) -> io::Result<Names> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut listing = nix::dir::Dir::openat(directory, ".", flags, Mode::empty())?;
        let mut names = Names::default();
        for entry in listing.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn push(&mut self, name: &[u8]) {
        self.spans.push((self.bytes.len() as u32, name.len() as u16));
        self.bytes.extend_from_slice(name);
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.spans.sort_unstable_by_key(|span| slice(bytes, *span));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The name at this place of the order.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.spans.get(index).map(|span| slice(&self.bytes, *span))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &OsStr> {
        self.spans.iter().map(|span| OsStr::from_bytes(slice(&self.bytes, *span)))
    }

    /// Whether this name is among them.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.spans.binary_search_by_key(&name, |span| slice(&self.bytes, *span)).is_ok()
    }
}

fn slice(bytes: &[u8], (start, length): (u32, u16)) -> &[u8] {
    &bytes[start as usize..start as usize + usize::from(length)]
}

#[cfg(test)]
mod tests {
    use super::super::Dir;

    #[test]
    fn names_are_sorted_by_their_bytes() {
        let temp = tempfile::tempdir().unwrap();
        for name in ["b", "a b", "\u{e4}", "B"] {
            std::fs::write(temp.path().join(name), "").unwrap();
        }
        let names = Dir::open(temp.path()).unwrap().names().unwrap();
        assert_eq!(names.iter().collect::<Vec<_>>(), ["B", "a b", "b", "\u{e4}"]);
        assert!(names.contains(b"a b") && !names.contains(b"a"));
        assert_eq!((names.len(), names.get(3)), (4, Some("\u{e4}".as_bytes())));
    }
}
