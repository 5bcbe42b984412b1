//! The bytes of objects: immutable files named by a UUID in one directory.
//!
//! The index (`index`) says which blobs belong to which object and how often each is used; this
//! module makes blob files durable, and removes them once nobody reads them any more.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

/// The directory of blobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    state: Mutex<State>,
}

/// A blob that the index dropped stays on disk while a download still reads it.
#[derive(Debug, Default)]
struct State {
    readers: HashMap<Uuid, usize>,
    dropped: HashSet<Uuid>,
}

impl Blobs {
    /// Opens the directory, made if missing.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        Ok(Self { inner: Arc::new(Inner { dir, state: Mutex::default() }) })
    }

    pub fn path(&self, blob: Uuid) -> PathBuf {
        self.inner.dir.join(blob.simple().to_string())
    }

    /// A new empty blob file; it counts only once [`Blobs::seal`] returned and the index knows it.
    pub fn create(&self) -> io::Result<Draft> {
        let blob = Uuid::new_v4();
        let path = self.path(blob);
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok(Draft { blob, file, path, sealed: false })
    }

    /// Makes a written draft survive a power cut.
    pub fn seal(&self, mut draft: Draft) -> io::Result<Uuid> {
        draft.file.sync_all()?;
        File::open(&self.inner.dir)?.sync_all()?;
        draft.sealed = true;
        Ok(draft.blob)
    }

    /// Looks something up in the index and keeps the blobs it names on disk until the pin drops.
    ///
    /// The lock is held over the look-up: a blob removed meanwhile is either not found any more,
    /// or removed after the pin.
    pub fn pin<T, E>(
        &self,
        look_up: impl FnOnce() -> Result<(T, Vec<Uuid>), E>,
    ) -> Result<(T, Pin), E> {
        let mut state = self.inner.state();
        let (found, blobs) = look_up()?;
        for blob in &blobs {
            *state.readers.entry(*blob).or_default() += 1;
        }
        Ok((found, Pin { inner: Arc::clone(&self.inner), blobs }))
    }

    /// Removes blobs that the index no longer knows; those being read go when their reader ends.
    pub fn remove(&self, blobs: Vec<Uuid>) {
        let mut state = self.inner.state();
        for blob in blobs {
            if state.readers.contains_key(&blob) {
                state.dropped.insert(blob);
            } else {
                self.inner.unlink(blob);
            }
        }
    }

    /// Removes every file that `known` does not claim: what a crash left. Called once, at start.
    pub fn sweep(&self, known: impl Fn(Uuid) -> bool) -> io::Result<usize> {
        let mut removed = 0;
        for entry in std::fs::read_dir(&self.inner.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let blob = name.to_str().and_then(|name| Uuid::try_parse(name).ok());
            if blob.is_some_and(|blob| !known(blob)) {
                std::fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob that cannot be unlinked wastes space until the next start sweeps it; no more.
    fn unlink(&self, blob: Uuid) {
        let path = self.dir.join(blob.simple().to_string());
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a blob");
        }
    }
}

/// Keeps blobs readable while it lives.
#[derive(Debug)]
pub struct Pin {
    inner: Arc<Inner>,
    blobs: Vec<Uuid>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        for blob in &self.blobs {
            let Some(readers) = state.readers.get_mut(blob) else { continue };
            *readers -= 1;
            if *readers == 0 {
                state.readers.remove(blob);
                if state.dropped.remove(blob) {
                    self.inner.unlink(*blob);
                }
            }
        }
    }
}

/// A blob being written; removed on drop unless sealed.
#[derive(Debug)]
pub struct Draft {
    blob: Uuid,
    pub file: File,
    path: PathBuf,
    sealed: bool,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.sealed
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a broken upload");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_stays_while_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().into()).unwrap();
        let blob = blobs.seal(blobs.create().unwrap()).unwrap();
        let (_, first) = blobs.pin(|| Ok::<_, ()>(((), vec![blob]))).unwrap();
        let (_, second) = blobs.pin(|| Ok::<_, ()>(((), vec![blob]))).unwrap();
        blobs.remove(vec![blob]);
        drop(first);
        assert!(blobs.path(blob).exists());
        drop(second);
        assert!(!blobs.path(blob).exists());
    }

    #[test]
    fn an_unsealed_draft_and_unknown_blobs_leave_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().into()).unwrap();
        drop(blobs.create().unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let kept = blobs.seal(blobs.create().unwrap()).unwrap();
        blobs.seal(blobs.create().unwrap()).unwrap();
        assert_eq!(blobs.sweep(|blob| blob == kept).unwrap(), 1);
        assert!(blobs.path(kept).exists());
    }
}
