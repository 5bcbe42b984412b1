//! The bytes of objects: immutable files named by a UUID in one directory.
//!
//! The index (`index`) says which blobs belong to which object and how often each is used; this
//! module makes blob files durable, and removes them when nothing reads them any more.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::model::Object;
use super::note::{self, Entry};

/// Ends the name of a blob that is being written.
const DRAFT: &str = "draft";

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

/// What is in the directory at the start.
#[derive(Debug, Default)]
pub struct Survey {
    /// Sizes of the files.
    pub blobs: HashMap<Uuid, u64>,
    /// Uploads that had not been finished.
    pub drafts: Vec<PathBuf>,
}

impl Survey {
    pub fn bytes(&self) -> u64 {
        self.blobs.values().sum()
    }

    /// Removes blobs that were never reported to a client.
    pub fn remove_drafts(&self) -> io::Result<()> {
        for draft in &self.drafts {
            std::fs::remove_file(draft)?;
        }
        if !self.drafts.is_empty() {
            tracing::warn!(uploads = self.drafts.len(), "removed unfinished uploads");
        }
        Ok(())
    }
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
    pub fn create(&self, blob: Uuid) -> io::Result<Draft> {
        let path = self.path(blob).with_extension(DRAFT);
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok(Draft { blob, file, path, sealed: false })
    }

    /// Writes what a draft is behind its bytes, and makes it survive a power cut.
    pub fn seal(&self, mut draft: Draft, entry: Entry) -> io::Result<()> {
        note::append(&mut draft.file, draft.blob, entry)?;
        draft.file.sync_all()?;
        let path = self.path(draft.blob);
        std::fs::rename(&draft.path, &path)?;
        draft.path = path;
        File::open(&self.inner.dir)?.sync_all()?;
        draft.sealed = true;
        Ok(())
    }

    /// Creates a blob with the note of an object whose bytes are in other blobs.
    pub fn note(&self, blob: Uuid, at: (&str, &str), object: &mut Object) -> io::Result<()> {
        object.segments = note::noted(std::mem::take(&mut object.segments), blob);
        let (bucket, key) = (at.0.to_owned(), at.1.to_owned());
        let entry = Entry::Object { bucket, key, object: object.clone() };
        self.seal(self.create(blob)?, entry)
    }

    /// Whether a blob has a note.
    pub fn is_noted(&self, blob: Uuid) -> bool {
        note::read(&self.path(blob), blob).is_ok_and(|(_, entry)| entry.is_some())
    }

    /// Whether the directory takes a few more bytes.
    pub fn probe(&self) -> io::Result<()> {
        let mut draft = self.create(Uuid::new_v4())?;
        draft.file.write_all(&[0; 64 * 1024])?;
        draft.file.sync_all()
    }

    /// Removes the note from a blob that is kept only for its bytes. If that fails, a rebuild of
    /// the index may restore a deleted object.
    pub fn strip(&self, blob: Uuid) {
        let path = self.path(blob);
        if let Err(error) = note::strip(&path, blob)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot remove the note from a blob");
        }
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

    /// What there is. Called before anybody writes.
    pub fn survey(&self) -> io::Result<Survey> {
        let mut survey = Survey::default();
        for entry in std::fs::read_dir(&self.inner.dir)? {
            let entry = entry?;
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == DRAFT) {
                survey.drafts.push(path);
            } else if let Some(blob) =
                entry.file_name().to_str().and_then(|name| Uuid::try_parse(name).ok())
            {
                survey.blobs.insert(blob, entry.metadata()?.len());
            }
        }
        Ok(survey)
    }

    /// Moves blobs into `directory`, made if missing.
    pub fn put_aside(&self, blobs: &[Uuid], directory: &Path) -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        for blob in blobs {
            std::fs::rename(self.path(*blob), directory.join(blob.simple().to_string()))?;
        }
        File::open(directory)?.sync_all()?;
        File::open(&self.inner.dir)?.sync_all()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A blob that cannot be unlinked wastes space until the next start puts it aside; no more.
    fn unlink(&self, blob: Uuid) {
        let path = self.dir.join(blob.simple().to_string());
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
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
    pub blob: Uuid,
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
    use crate::standalone::s3::model::{Attributes, Part, Upload};

    fn blob(blobs: &Blobs) -> Uuid {
        let draft = blobs.create(Uuid::new_v4()).unwrap();
        let blob = draft.blob;
        let (segments, size) = (Vec::new(), 0);
        let part = Part { segments, size, etag: String::new(), modified: 0 };
        let upload = Upload {
            bucket: String::new(),
            key: String::new(),
            attributes: Attributes::default(),
            started: 0,
        };
        let entry = Entry::Part { upload_id: String::new(), upload, number: 1, part };
        blobs.seal(draft, entry).unwrap();
        blob
    }

    #[test]
    fn a_blob_stays_while_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().into()).unwrap();
        let blob = blob(&blobs);
        let (_, first) = blobs.pin(|| Ok::<_, ()>(((), vec![blob]))).unwrap();
        let (_, second) = blobs.pin(|| Ok::<_, ()>(((), vec![blob]))).unwrap();
        blobs.remove(vec![blob]);
        drop(first);
        assert!(blobs.path(blob).exists());
        drop(second);
        assert!(!blobs.path(blob).exists());
    }

    #[test]
    fn an_unsealed_draft_leaves_nothing_and_unknown_blobs_are_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().join("blobs")).unwrap();
        drop(blobs.create(Uuid::new_v4()).unwrap());
        std::mem::forget(blobs.create(Uuid::new_v4()).unwrap());
        let (kept, other) = (blob(&blobs), blob(&blobs));
        let survey = blobs.survey().unwrap();
        assert_eq!(survey.blobs.len(), 2);
        survey.remove_drafts().unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("blobs")).unwrap().count(), 2);
        let aside = dir.path().join("aside");
        blobs.put_aside(&[other], &aside).unwrap();
        assert!(blobs.path(kept).exists() && !blobs.path(other).exists());
        assert!(aside.join(other.simple().to_string()).exists());
    }
}
