//! The part of an inbox that does not fit in memory: an unlinked file, written at its end, read at its
//! front. What has been read is punched out, so a queue that never runs empty does not grow the file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use linux::blocks;

/// How much is read before its disk space is given back.
const PUNCH: u64 = 4 << 20;

#[derive(Debug)]
pub(super) struct Spill {
    file: Arc<File>,
    read: u64,
    written: u64,
    punched: u64,
}

impl Spill {
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let file = Arc::new(tempfile::tempfile_in(directory)?);
        Ok(Self { file, read: 0, written: 0, punched: 0 })
    }

    /// Bytes that have been written and not yet read.
    pub(super) fn len(&self) -> u64 {
        self.written - self.read
    }

    /// Bytes of disk that the file holds.
    pub(super) fn held(&self) -> u64 {
        self.written - self.punched
    }

    /// A write of one packet to the page cache. It happens in the connection's own task: a disk that
    /// stalls here holds this client back, which is what should happen.
    pub(super) fn append(&mut self, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, self.written)?;
        self.written += data.len() as u64;
        Ok(())
    }

    /// The next piece to read, at most `most` bytes; counted as read at once.
    pub(super) fn next(&mut self, most: u64) -> Piece {
        let length = self.len().min(most);
        let piece =
            Piece { file: Arc::clone(&self.file), offset: self.read, length: length as usize };
        self.read += length;
        piece
    }

    /// Gives back the disk space of what has been read, and says how many bytes that were. A file
    /// system that cannot punch holes gives them back when the queue has run empty.
    pub(super) fn reclaim(&mut self) -> u64 {
        if self.len() == 0 {
            let held = self.held();
            if self.file.set_len(0).is_ok() {
                (self.read, self.written, self.punched) = (0, 0, 0);
                return held;
            }
        }
        let length = self.read - self.punched;
        if length < PUNCH {
            return 0;
        }
        if blocks::punch_hole(&self.file, self.punched, length).is_err() {
            return 0;
        }
        self.punched = self.read;
        length
    }
}

/// Bytes in the file, read away from the lock and from the async threads.
#[derive(Debug)]
pub(super) struct Piece {
    file: Arc<File>,
    offset: u64,
    length: usize,
}

impl Piece {
    pub(super) fn read(self) -> io::Result<Vec<u8>> {
        let mut data = vec![0; self.length];
        self.file.read_exact_at(&mut data, self.offset)?;
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_was_read_leaves_the_disk_while_more_comes() {
        let mut spill = Spill::open(&std::env::temp_dir()).unwrap();
        let block = vec![7; 1 << 20];
        for _ in 0..8 {
            spill.append(&block).unwrap();
        }
        for _ in 0..6 {
            assert_eq!(spill.next(1 << 20).read().unwrap(), block);
        }
        let before = spill.held();
        let freed = spill.reclaim();
        assert!(freed == 6 << 20 || freed == 0, "holes, or a file system without them");
        assert_eq!(spill.held(), before - freed);
        if freed > 0 {
            assert!(spill.file.metadata().unwrap().blocks() * 512 <= 3 << 20);
        }
        assert_eq!(spill.next(u64::MAX).read().unwrap().len(), 2 << 20);
        assert_eq!(spill.reclaim(), spill.held() + (8 << 20) - freed);
        assert_eq!(spill.file.metadata().unwrap().len(), 0);
    }
}
