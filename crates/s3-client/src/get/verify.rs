//! The md5 of a file that is written out of order: hashes its contiguous prefix, in order.
//!
//! A blocking thread reads back what has just been written (from the page cache) as far as there is
//! no gap. Nothing is hashed twice, and little is left to hash after the last byte has arrived.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use md5::{Digest, Md5};
use tokio::task::JoinHandle;

use super::error::Error;
use super::output::Output;

/// Bytes read back at a time.
const BLOCK: u64 = 1 << 20;

/// How far the file is written without a gap.
#[derive(Debug)]
struct Prefix {
    /// What is missing of each part.
    missing: Vec<u64>,
    /// The first part of which something is missing.
    current: usize,
    /// Bytes that are written of the parts after `current`, by part.
    written: Vec<u64>,
    /// Bytes without a gap.
    ready: u64,
    ended: Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    No,
    /// Every byte is written.
    Complete,
    /// The download failed: the md5 is not needed.
    Abandoned,
}

impl Prefix {
    fn new(parts: &[u64]) -> Self {
        Self {
            missing: parts.to_vec(),
            current: 0,
            written: vec![0; parts.len()],
            ready: 0,
            ended: Ended::No,
        }
    }

    /// Counts `len` more bytes of `part`; each part is written from its start on.
    fn written(&mut self, part: usize, len: u64) {
        self.written[part] += len;
        self.missing[part] -= len;
        while let Some(fresh) = self.written.get_mut(self.current).map(std::mem::take) {
            self.ready += fresh;
            if self.missing[self.current] > 0 {
                break;
            }
            self.current += 1;
        }
    }
}

#[derive(Debug)]
struct Shared {
    prefix: Mutex<Prefix>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Prefix> {
        self.prefix.lock().expect("no holder of this lock can panic")
    }

    fn end(&self, how: Ended) {
        let mut prefix = self.lock();
        if prefix.ended == Ended::No {
            prefix.ended = how;
        }
        self.changed.notify_one();
    }

    /// Waits for bytes beyond `hashed`; `None` when there will be none.
    fn wait_beyond(&self, hashed: u64) -> Option<u64> {
        let mut prefix = self.lock();
        loop {
            match prefix.ended {
                Ended::Abandoned => return None,
                _ if prefix.ready > hashed => return Some(prefix.ready),
                Ended::Complete => return None,
                Ended::No => {
                    prefix = self.changed.wait(prefix).expect("no holder of this lock can panic");
                }
            }
        }
    }
}

/// Checks one download. Dropped before [`Verifier::finish`], it stops hashing.
pub(super) struct Verifier {
    shared: Arc<Shared>,
    hashing: Option<JoinHandle<io::Result<String>>>,
    expected: String,
    object: String,
    path: PathBuf,
}

impl Verifier {
    /// Begins to hash, if an md5 is expected. `parts` are the lengths that `written` counts.
    pub(super) fn start(
        output: &Output,
        parts: &[u64],
        expected: Option<&str>,
        object: String,
    ) -> Result<Self, Error> {
        let shared =
            Arc::new(Shared { prefix: Mutex::new(Prefix::new(parts)), changed: Condvar::new() });
        let hashing = expected.is_some().then(|| {
            let (shared, file) = (shared.clone(), output.file.clone());
            tokio::task::spawn_blocking(move || hash(&shared, &file))
        });
        Ok(Self {
            shared,
            hashing,
            expected: expected.unwrap_or_default().to_ascii_lowercase(),
            object,
            path: output.path.clone(),
        })
    }

    /// Records that `len` more bytes of `part` are in the file.
    pub(super) fn written(&self, part: usize, len: u64) {
        self.shared.lock().written(part, len);
        self.shared.changed.notify_one();
    }

    /// Waits for the md5 of what was written and compares it.
    pub(super) async fn finish(mut self) -> Result<(), Error> {
        self.shared.end(Ended::Complete);
        let Some(hashing) = self.hashing.take() else { return Ok(()) };
        let hashed = hashing.await.map_err(io::Error::other).flatten();
        let found = hashed.map_err(|source| Error::ReadBack { path: self.path.clone(), source })?;
        if found == self.expected {
            return Ok(());
        }
        Err(Error::Md5 { object: self.object.clone(), expected: self.expected.clone(), found })
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        self.shared.end(Ended::Abandoned);
    }
}

fn hash(shared: &Shared, file: &File) -> io::Result<String> {
    let mut md5 = Md5::new();
    let mut block = vec![0; BLOCK as usize];
    let mut at = 0;
    while let Some(ready) = shared.wait_beyond(at) {
        let wanted = BLOCK.min(ready - at) as usize;
        file.read_exact_at(&mut block[..wanted], at)?;
        md5.update(&block[..wanted]);
        at += wanted as u64;
    }
    Ok(hex::encode(md5.finalize()))
}

#[cfg(test)]
mod tests {
    use super::Prefix;

    #[test]
    fn the_prefix_grows_only_where_there_is_no_gap() {
        let mut prefix = Prefix::new(&[10, 10, 5]);
        prefix.written(1, 10);
        assert_eq!(prefix.ready, 0);
        prefix.written(0, 4);
        assert_eq!(prefix.ready, 4);
        prefix.written(2, 2);
        prefix.written(0, 6);
        assert_eq!(prefix.ready, 22);
        prefix.written(2, 3);
        assert_eq!(prefix.ready, 25);
    }
}
