//! The memory and disk that all inboxes of a server share.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bounds on what all clients together can have queued here.
#[derive(Debug)]
pub struct Budget {
    pub(super) memory: Pool,
    pub(super) disk: Pool,
    directory: PathBuf,
    disk_failed: AtomicBool,
}

impl Budget {
    /// `memory` and `disk` in bytes; spill files are created (and unlinked at once) in `directory`.
    pub fn new(memory: u64, disk: u64, directory: PathBuf) -> Self {
        Self {
            memory: Pool::new(memory),
            disk: Pool::new(disk),
            directory,
            disk_failed: AtomicBool::new(false),
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Bytes that may still be taken in: none once the disk has refused.
    pub(super) fn room(&self) -> u64 {
        if self.disk_failed.load(Ordering::Relaxed) { 0 } else { self.disk.room() }
    }

    /// Remembers whether the disk takes more; the first refusal is logged.
    pub(super) fn disk_works(&self, result: &std::io::Result<()>) {
        let failed = self.disk_failed.swap(result.is_err(), Ordering::Relaxed);
        if let (Err(error), false) = (result, failed) {
            tracing::warn!(
                directory = %self.directory.display(), error = %error,
                "cannot queue more session input on disk; clients wait until programs read their \
                 input"
            );
        }
    }
}

/// A counted amount with a limit.
#[derive(Debug)]
pub(super) struct Pool {
    limit: u64,
    used: AtomicU64,
}

impl Pool {
    fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    /// Takes `bytes`, or nothing.
    pub(super) fn take(&self, bytes: u64) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|&sum| sum <= self.limit)
            })
            .is_ok()
    }

    /// Takes `bytes` whether they are there or not.
    pub(super) fn force(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn room(&self) -> u64 {
        self.limit.saturating_sub(self.used.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_gives_no_more_than_it_has() {
        let pool = Pool::new(10);
        assert!(pool.take(7));
        assert!(!pool.take(4));
        assert_eq!(pool.room(), 3);
        pool.give(7);
        assert!(pool.take(10));
    }
}
