//! The journal of an import: written before a record is created, so that the next run finds the
//! record of an interrupted run, completes it, and creates no second one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::transfer::fetch;

/// Name of the file beside the documents.
pub const NAME: &str = ".ims-import-journal.json";

/// One record on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// What the record is made of.
    pub fields: Value,
    /// When the record was requested, by this machine's clock.
    pub begun: Timestamp,
    /// Its id, once it is known.
    pub id: Option<String>,
}

/// Entries by document and old id, by IMS.
type Entries = BTreeMap<String, BTreeMap<String, Entry>>;

#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// The IMS that is imported to.
    backend: String,
    entries: Mutex<Entries>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the journal {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the journal {} is damaged; check what the last import left behind, then remove it", path.display())]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("cannot write the journal; choose another file with --journal")]
    Write(#[from] fetch::Error),
}

impl Journal {
    pub fn open(path: &Path, backend: &str) -> Result<Self, Error> {
        let entries = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| Error::Damaged { path: path.to_owned(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Entries::new(),
            Err(source) => return Err(Error::Read { path: path.to_owned(), source }),
        };
        let (path, backend) = (path.to_owned(), backend.to_owned());
        Ok(Self { path, backend, entries: Mutex::new(entries) })
    }

    pub fn get(&self, key: &str) -> Option<Entry> {
        self.lock().get(&self.backend)?.get(key).cloned()
    }

    /// How many records with these fields were requested and have no known id.
    pub fn in_doubt(&self, fields: &Value) -> usize {
        let entries = self.lock();
        let of_site = entries.get(&self.backend).into_iter().flat_map(BTreeMap::values);
        of_site.filter(|entry| entry.id.is_none() && entry.fields == *fields).count()
    }

    /// Ids that belong to an entry.
    pub fn ids(&self) -> Vec<String> {
        let entries = self.lock();
        let of_site = entries.get(&self.backend).into_iter().flat_map(BTreeMap::values);
        of_site.filter_map(|entry| entry.id.clone()).collect()
    }

    /// On disk when this returns.
    pub fn set(&self, key: &str, entry: Entry) -> Result<(), Error> {
        let mut entries = self.lock();
        entries.entry(self.backend.clone()).or_default().insert(key.to_owned(), entry);
        self.write(&entries)
    }

    pub fn remove(&self, key: &str) -> Result<(), Error> {
        let mut entries = self.lock();
        entries.entry(self.backend.clone()).or_default().remove(key);
        self.write(&entries)
    }

    fn write(&self, entries: &Entries) -> Result<(), Error> {
        let json = serde_json::to_vec_pretty(entries).expect("JSON values can be written as JSON");
        Ok(fetch::write(&self.path, &json)?)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn entries_outlive_the_process_and_belong_to_one_site() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let journal = Journal::open(&path, "http://one").unwrap();
        let entry = Entry { fields: json!({"name": "n"}), begun: Timestamp::now(), id: None };
        journal.set("images.json/1", entry.clone()).unwrap();
        assert_eq!(journal.in_doubt(&entry.fields), 1);
        assert_eq!(Journal::open(&path, "http://one").unwrap().get("images.json/1"), Some(entry));
        assert_eq!(Journal::open(&path, "http://two").unwrap().get("images.json/1"), None);
        journal.remove("images.json/1").unwrap();
        assert_eq!(Journal::open(&path, "http://one").unwrap().get("images.json/1"), None);
        std::fs::write(&path, "{").unwrap();
        assert!(matches!(Journal::open(&path, "x"), Err(Error::Damaged { .. })));
    }
}
