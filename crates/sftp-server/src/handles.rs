//! Open files and directories of a client, under small numbers, as OpenSSH assigns them.

use std::collections::BTreeMap;
use std::fs::{File, ReadDir};
use std::path::PathBuf;
use std::sync::Arc;

use super::request::HandleName;

/// An open file; reads and writes on it run in parallel.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub file: File,
    /// Writes go to the end, regardless of their offset.
    pub append: bool,
    /// Device and inode: what handles on the same file have in common.
    pub identity: (u64, u64),
}

/// An open directory and how far it has been read.
#[derive(Debug)]
pub(crate) struct OpenDir {
    pub path: PathBuf,
    /// `.` and `..` come first; then what the directory holds.
    pub dots: u8,
    pub entries: ReadDir,
}

#[derive(Debug)]
pub(crate) enum Handle {
    File(Arc<OpenFile>),
    Dir(OpenDir),
}

/// All open handles of a session.
#[derive(Debug)]
pub(crate) struct Handles {
    open: BTreeMap<u32, Handle>,
    /// Given back, the next to be given out last; OpenSSH's order.
    free: Vec<u32>,
    most: usize,
}

impl Handles {
    pub(crate) fn new(most: usize) -> Handles {
        Handles { open: BTreeMap::new(), free: Vec::new(), most }
    }

    /// The number given to it; `None` when as many as may be are open.
    pub(crate) fn insert(&mut self, handle: Handle) -> Option<u32> {
        if self.open.len() >= self.most {
            return None;
        }
        // With none given back, those in use are all there ever were.
        let number = self.free.pop().unwrap_or(self.open.len() as u32);
        self.open.insert(number, handle);
        Some(number)
    }

    pub(crate) fn file(&self, name: HandleName) -> Option<&Arc<OpenFile>> {
        match self.open.get(&name?)? {
            Handle::File(file) => Some(file),
            Handle::Dir(_) => None,
        }
    }

    pub(crate) fn dir(&mut self, name: HandleName) -> Option<&mut OpenDir> {
        match self.open.get_mut(&name?)? {
            Handle::Dir(dir) => Some(dir),
            Handle::File(_) => None,
        }
    }

    pub(crate) fn remove(&mut self, name: HandleName) -> Option<Handle> {
        let number = name?;
        let removed = self.open.remove(&number)?;
        self.free.push(number);
        Some(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> Handle {
        let entries = std::fs::read_dir("/").unwrap();
        Handle::Dir(OpenDir { path: "/".into(), dots: 0, entries })
    }

    #[test]
    fn numbers_are_reused_and_bounded() {
        let mut handles = Handles::new(3);
        for expected in 0..3 {
            assert_eq!(handles.insert(dir()), Some(expected));
        }
        assert_eq!(handles.insert(dir()), None);
        handles.remove(Some(0)).unwrap();
        handles.remove(Some(1)).unwrap();
        assert!(handles.remove(Some(1)).is_none());
        assert!(handles.dir(Some(1)).is_none() && handles.file(Some(0)).is_none());
        assert_eq!(handles.insert(dir()), Some(1), "the last that was given back");
        assert_eq!(handles.insert(dir()), Some(0));
        assert_eq!(handles.insert(dir()), None);
    }
}
