//! Users and groups of the root that the server lives in, for listings and `~`.
//!
//! Read from the files, not through the C library: its modules are not in the image's root, or are
//! another version's.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One of passwd(5) or group(5), kept until the file changes.
#[derive(Debug)]
pub(crate) struct Table {
    path: &'static str,
    stamp: Option<(u64, i64, i64)>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    name: Vec<u8>,
    id: u32,
    /// Empty for groups.
    home: Vec<u8>,
}

impl Table {
    pub(crate) fn users() -> Table {
        Table { path: "/etc/passwd", stamp: None, entries: Vec::new() }
    }

    pub(crate) fn groups() -> Table {
        Table { path: "/etc/group", stamp: None, entries: Vec::new() }
    }

    /// The name, or nothing where the id has none.
    pub(crate) fn name(&mut self, id: u32) -> Option<&[u8]> {
        self.refresh();
        self.entries.iter().find(|entry| entry.id == id).map(|entry| entry.name.as_slice())
    }

    pub(crate) fn home_of(&mut self, name: &[u8]) -> Option<PathBuf> {
        self.refresh();
        let entry = self.entries.iter().find(|entry| entry.name == name)?;
        Some(Path::new(OsStr::from_bytes(&entry.home)).to_owned())
    }

    pub(crate) fn home_of_id(&mut self, id: u32) -> Option<PathBuf> {
        self.refresh();
        let entry = self.entries.iter().find(|entry| entry.id == id)?;
        Some(Path::new(OsStr::from_bytes(&entry.home)).to_owned())
    }

    fn refresh(&mut self) {
        /// Larger than any site's; a user's file must not fill our memory.
        const LIMIT: u64 = 8 << 20;
        let found = fs::metadata(self.path).ok().filter(|found| found.is_file());
        let stamp = found.map(|found| (found.size(), found.mtime(), found.mtime_nsec()));
        if stamp == self.stamp {
            return;
        }
        self.stamp = stamp;
        let small = stamp.is_some_and(|(size, ..)| size <= LIMIT);
        let content = if small { fs::read(self.path).unwrap_or_default() } else { Vec::new() };
        self.entries = content.split(|&byte| byte == b'\n').filter_map(parse).collect();
    }
}

fn parse(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|&byte| byte == b':');
    let name = fields.next()?.to_vec();
    let id = std::str::from_utf8(fields.nth(1)?).ok()?.parse().ok()?;
    let home = fields.nth(2).unwrap_or_default().to_vec();
    Some(Entry { name, id, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_parse() {
        let user = parse(b"bin:x:2:3:Bin:/home/bin:/sbin/nologin").unwrap();
        assert_eq!((user.name.as_slice(), user.id), (&b"bin"[..], 2));
        assert_eq!(user.home, b"/home/bin");
        assert_eq!(parse(b"tty:x:5:a,b").unwrap().id, 5);
        assert!(parse(b"+::::::").is_none());
    }
}
