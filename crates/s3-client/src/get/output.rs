//! The output file of a download: written at any offset, in blocks, outside the async threads.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use progress::Progress;
use reqwest::Response;

use super::error::Error;
use super::link::Link;
use net::pace;

/// Bytes collected before they are written.
pub(super) const BLOCK: usize = 1 << 20;

pub(super) struct Output<'a> {
    pub file: Arc<File>,
    pub path: PathBuf,
    pub meter: &'a dyn Progress,
    /// Bytes up to which an earlier download has written, if this one goes on with it.
    pub there: u64,
    /// Time in which the pace of an answer is judged.
    pub window: Duration,
}

impl<'a> Output<'a> {
    pub(super) fn create(
        path: &Path,
        meter: &'a dyn Progress,
        resume: bool,
        window: Duration,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Write { path: path.into(), source };
        let file = File::options().read(true).write(true).create(true).truncate(!resume).open(path);
        let file = file.map_err(failed)?;
        let there = file.metadata().map_err(failed)?.len();
        Ok(Self { file: Arc::new(file), path: path.into(), meter, there, window })
    }

    /// Checks that `size` bytes fit, with those that already exist, before hours are spent on them.
    pub(super) fn reserve(&self, size: u64) -> Result<(), Error> {
        self.meter.set_total(size);
        // st_blocks counts units of 512 bytes (stat(2)).
        let taken = self.file.metadata().map_or(0, |found| found.blocks() * 512);
        let needed = size.saturating_sub(taken);
        match linux::disk::free_bytes(&*self.file) {
            Ok(free) if free < needed => {
                Err(Error::NoSpace { path: self.path.clone(), needed, free })
            }
            // A file system that cannot report its free space fails when it is full.
            _ => Ok(()),
        }
    }

    /// Writes the body of `response` from `*at` on, up to `end`; `*at` is how far it got.
    ///
    /// `written` is called for each block. Blocks before an interruption are kept.
    pub(super) async fn copy(
        &self,
        link: &Link,
        mut response: Response,
        at: &mut u64,
        end: u64,
        written: impl Fn(u64),
    ) -> Result<(), Error> {
        let mut block = Vec::with_capacity(BLOCK);
        let mut watch = pace::Watch::new(self.window);
        loop {
            let chunk = watch.chunk(&mut response).await.map_err(|error| link.ended(error));
            let ended = !matches!(chunk, Ok(Some(_)));
            if let Ok(Some(bytes)) = &chunk {
                block.extend_from_slice(bytes);
            }
            if block.len() as u64 > end - *at {
                return Err(Error::Answer {
                    object: link.name(),
                    expected: format!("bytes up to {end}"),
                    found: "more".to_owned(),
                });
            }
            if !block.is_empty() && (ended || block.len() >= BLOCK) {
                let len = block.len() as u64;
                block = self.write(block, *at, end).await?;
                *at += len;
                written(len);
                self.meter.add(len);
            }
            match chunk {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes a block at `at` and gives its buffer back, empty.
    async fn write(&self, mut block: Vec<u8>, at: u64, end: u64) -> Result<Vec<u8>, Error> {
        let file = self.file.clone();
        let wrote = tokio::task::spawn_blocking(move || {
            file.write_all_at(&block, at)?;
            linux::blocks::start_writeback(&*file, at, block.len() as u64);
            block.clear();
            Ok(block)
        });
        let wrote = wrote.await.map_err(io::Error::other).flatten();
        wrote.map_err(|source| self.not_written(source, at, end))
    }

    fn not_written(&self, source: io::Error, at: u64, end: u64) -> Error {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        if !full.contains(&source.kind()) {
            return Error::Write { path: self.path.clone(), source };
        }
        let free = linux::disk::free_bytes(&*self.file).unwrap_or_default();
        let needed = if end == u64::MAX { BLOCK as u64 } else { end - at };
        Error::NoSpace { path: self.path.clone(), needed, free }
    }
}
