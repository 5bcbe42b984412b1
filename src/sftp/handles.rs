//! What a client has open: files and directories by small numbers, as OpenSSH gives them out.

use std::collections::BTreeMap;
use std::fs::{File, ReadDir};
use std::path::PathBuf;
use std::sync::Arc;

use super::request::HandleName;

/// An open file; reads and writes on it run in parallel.
#[derive(Debug)]
pub struct OpenFile {
    pub file: File,
    /// Writes go to the end whatever their offset says.
    pub append: bool,
    /// Device and inode: what handles on the same file have in common.
    pub identity: (u64, u64),
}

/// An open directory and how far it has been read.
#[derive(Debug)]
pub struct OpenDir {
    pub path: PathBuf,
    /// `.` and `..` come first; then what the directory holds.
    pub dots: u8,
    pub entries: ReadDir,
}

#[derive(Debug)]
pub enum Handle {
    File(Arc<OpenFile>),
    Dir(OpenDir),
}

/// All open handles of a session.
#[derive(Debug)]
pub struct Handles {
    open: BTreeMap<u32, Handle>,
    most: usize,
}

impl Handles {
    pub fn new(most: usize) -> Handles {
        Handles { open: BTreeMap::new(), most }
    }

    /// The number given to it, the lowest that is free; `None` when as many as may be are open.
    pub fn insert(&mut self, handle: Handle) -> Option<u32> {
        if self.open.len() >= self.most {
            return None;
        }
        let number = (0..).zip(self.open.keys()).find(|(free, used)| free != *used);
        let number = number.map_or(self.open.len() as u32, |(free, _)| free);
        self.open.insert(number, handle);
        Some(number)
    }

    pub fn file(&self, name: HandleName) -> Option<&Arc<OpenFile>> {
        match self.open.get(&name?)? {
            Handle::File(file) => Some(file),
            Handle::Dir(_) => None,
        }
    }

    pub fn dir(&mut self, name: HandleName) -> Option<&mut OpenDir> {
        match self.open.get_mut(&name?)? {
            Handle::Dir(dir) => Some(dir),
            Handle::File(_) => None,
        }
    }

    pub fn remove(&mut self, name: HandleName) -> Option<Handle> {
        self.open.remove(&name?)
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
        handles.remove(Some(1)).unwrap();
        assert!(handles.dir(Some(1)).is_none() && handles.file(Some(0)).is_none());
        assert_eq!(handles.insert(dir()), Some(1));
    }
}
