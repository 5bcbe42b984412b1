//! The index of objects: a redb database beside the blobs. Every change is one transaction.
//!
//! Blocking; `service` calls it from blocking tasks. Blobs carry a use count, so that copies share
//! them; a change returns the blobs that nothing uses any more.

use std::collections::HashSet;
use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::model::{Object, Part, Segment, Upload};
use super::note;
use crate::standalone::database::{self, Tables, from_redb};

/// What the database must have in it.
pub const TABLES: Tables = Tables {
    schema: 1,
    make,
    advice: "Restore a backup of the file, or move the file away and run `ims-job-agent \
             standalone --data=DIR --rebuild-index`, which rebuilds it from the objects",
};

/// Set once every object has a note.
const NOTED: &str = "noted";

fn make(txn: &WriteTransaction) -> std::result::Result<(), redb::Error> {
    txn.open_table(BUCKETS)?;
    txn.open_table(OBJECTS)?;
    txn.open_table(UPLOADS)?;
    txn.open_table(PARTS)?;
    txn.open_table(USES)?;
    Ok(())
}

const BUCKETS: TableDefinition<&str, u64> = TableDefinition::new("buckets");
pub(super) const OBJECTS: TableDefinition<(&str, &str), &[u8]> = TableDefinition::new("objects");
pub(super) const UPLOADS: TableDefinition<&str, &[u8]> = TableDefinition::new("uploads");
pub(super) const PARTS: TableDefinition<(&str, u32), &[u8]> = TableDefinition::new("parts");
/// How many segments use a blob.
const USES: TableDefinition<u128, u64> = TableDefinition::new("uses");

/// Why the index refuses or fails.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("no bucket {0}")]
    NoSuchBucket(String),
    #[error("bucket {0} exists")]
    BucketExists(String),
    #[error("bucket {0} is not empty")]
    BucketNotEmpty(String),
    #[error("no object {0}")]
    NoSuchKey(String),
    #[error("no upload {0}")]
    NoSuchUpload(String),
    #[error("part {0} is missing, or its etag is another")]
    InvalidPart(u32),
    #[error("the parts are not in ascending order")]
    PartOrder,
    #[error("part {0} is smaller than 5 MiB and not the last")]
    PartTooSmall(u32),
    #[error("a precondition of the request failed")]
    Precondition,
    #[error(transparent)]
    Database(#[from] database::Error),
    #[error("cannot write beside the objects")]
    Disk(#[source] std::io::Error),
    #[error("a value of the object index cannot be read")]
    Value(#[from] serde_json::Error),
}

from_redb!(Fault);

pub type Result<T> = std::result::Result<T, Fault>;

/// The database of objects.
#[derive(Debug)]
pub struct Index {
    pub(super) db: Database,
}

/// What a change left of no use.
#[derive(Debug, Default, PartialEq)]
pub struct Freed {
    pub blobs: Vec<Uuid>,
    /// Blobs that others use, but whose notes are no more so.
    pub notes: Vec<Uuid>,
}

/// A writing transaction in progress, and what it freed so far.
pub(super) struct Change {
    pub txn: WriteTransaction,
    pub freed: Freed,
}

impl Index {
    /// Opens the database, made if missing; fails while another process has it open. `check` looks for
    /// damage in all of it.
    pub fn open(path: &Path, check: bool) -> std::result::Result<Self, database::Error> {
        Ok(Self { db: database::open(path, &TABLES, check)? })
    }

    /// Whether the index can be changed: a change that leaves no trace.
    pub fn probe(&self) -> Result<()> {
        Ok(database::probe(&self.db).map_err(database::Error::Raw)?)
    }

    pub fn create_bucket(&self, name: &str) -> Result<()> {
        let txn = self.db.begin_write()?;
        {
            let mut buckets = txn.open_table(BUCKETS)?;
            if buckets.get(name)?.is_some() {
                return Err(Fault::BucketExists(name.into()));
            }
            buckets.insert(name, super::model::now())?;
        }
        Ok(txn.commit()?)
    }

    pub fn delete_bucket(&self, name: &str) -> Result<()> {
        self.check_bucket(name)?;
        let txn = self.db.begin_write()?;
        {
            let objects = txn.open_table(OBJECTS)?;
            let first = objects.range((name, "")..)?.next().transpose()?;
            if first.is_some_and(|(at, _)| at.value().0 == name) {
                return Err(Fault::BucketNotEmpty(name.into()));
            }
            txn.open_table(BUCKETS)?.remove(name)?;
        }
        Ok(txn.commit()?)
    }

    /// Names and creation times.
    pub fn buckets(&self) -> Result<Vec<(String, u64)>> {
        let table = self.db.begin_read()?.open_table(BUCKETS)?;
        table
            .iter()?
            .map(|row| row.map(|(name, made)| (name.value().to_owned(), made.value())))
            .collect::<std::result::Result<_, _>>()
            .map_err(Fault::from)
    }

    pub fn check_bucket(&self, name: &str) -> Result<()> {
        match self.db.begin_read()?.open_table(BUCKETS)?.get(name)? {
            Some(_) => Ok(()),
            None => Err(Fault::NoSuchBucket(name.into())),
        }
    }

    pub fn object(&self, bucket: &str, key: &str) -> Result<Object> {
        self.check_bucket(bucket)?;
        let table = self.db.begin_read()?.open_table(OBJECTS)?;
        match table.get((bucket, key))? {
            Some(value) => decode(value.value()),
            None => Err(Fault::NoSuchKey(key.into())),
        }
    }

    /// Stores an object in place of what was there, if `allowed` says so of the old etag.
    pub fn put(
        &self,
        (bucket, key): (&str, &str),
        object: &Object,
        allowed: impl FnOnce(Option<&Object>) -> bool,
    ) -> Result<Freed> {
        self.check_bucket(bucket)?;
        let mut change = self.change()?;
        change.put((bucket, key), object, allowed)?;
        change.commit()
    }

    /// Copies an object, or replaces its attributes when source and destination are one.
    pub fn copy(
        &self,
        source: (&str, &str),
        destination: (&str, &str),
        edit: impl FnOnce(&mut Object) -> bool,
        note: impl FnOnce(&mut Object) -> std::io::Result<()>,
    ) -> Result<(Object, Freed)> {
        self.check_bucket(source.0)?;
        self.check_bucket(destination.0)?;
        let mut change = self.change()?;
        let mut object =
            change.object(source)?.ok_or_else(|| Fault::NoSuchKey(source.1.to_owned()))?;
        if !edit(&mut object) {
            return Err(Fault::Precondition);
        }
        note(&mut object).map_err(Fault::Disk)?;
        change.put(destination, &object, |_| true)?;
        Ok((object, change.commit()?))
    }

    /// Removes objects; those that do not exist are not an error, as in S3.
    pub fn remove(&self, bucket: &str, keys: &[&str]) -> Result<Freed> {
        self.check_bucket(bucket)?;
        let mut change = self.change()?;
        for key in keys {
            let old = {
                let mut objects = change.txn.open_table(OBJECTS)?;
                let old = objects.remove((bucket, *key))?;
                old.map(|value| decode::<Object>(value.value())).transpose()?
            };
            if let Some(old) = old {
                change.release(&old.segments)?;
            }
        }
        change.commit()
    }

    /// All blobs that objects and parts use.
    pub fn used(&self) -> Result<HashSet<Uuid>> {
        let table = self.db.begin_read()?.open_table(USES)?;
        let mut used = HashSet::new();
        for row in table.iter()? {
            used.insert(Uuid::from_u128(row?.0.value()));
        }
        Ok(used)
    }

    /// Whether any object or part uses this blob.
    pub fn uses(&self, blob: Uuid) -> Result<bool> {
        Ok(self.db.begin_read()?.open_table(USES)?.get(blob.as_u128())?.is_some())
    }

    /// Objects that an older version stored get a note, once. `note` writes one for the blob given.
    pub fn note_all(
        &self,
        is_noted: impl Fn(Uuid) -> bool,
        mut note: impl FnMut(Uuid, (&str, &str), &mut Object) -> std::io::Result<()>,
    ) -> Result<usize> {
        if database::flag(&self.db, NOTED).map_err(database::Error::Raw)? {
            return Ok(0);
        }
        let mut change = self.change()?;
        let mut plain = Vec::new();
        for row in change.txn.open_table(OBJECTS)?.iter()? {
            let (at, value) = row?;
            let object: Object = decode(value.value())?;
            if !note::own(&object.segments).is_some_and(&is_noted) {
                let (bucket, key) = at.value();
                plain.push((bucket.to_owned(), key.to_owned(), object));
            }
        }
        for (bucket, key, object) in &mut plain {
            let (at, blob) = ((bucket.as_str(), key.as_str()), Uuid::new_v4());
            note(blob, at, object).map_err(Fault::Disk)?;
            change.retain(&[Segment { blob, offset: 0, len: 0 }])?;
            change.txn.open_table(OBJECTS)?.insert(at, encode(object)?.as_slice())?;
        }
        database::set_flag(&change.txn, NOTED).map_err(database::Error::Raw)?;
        change.commit()?;
        Ok(plain.len())
    }

    /// Fills a new index, as one change.
    pub fn fill<'a>(
        &self,
        buckets: &[&str],
        objects: impl Iterator<Item = ((&'a str, &'a str), &'a Object)>,
        parts: impl Iterator<Item = (&'a str, u32, &'a Upload, &'a Part)>,
    ) -> Result<()> {
        let mut change = self.change()?;
        let made = super::model::now();
        for bucket in buckets {
            change.txn.open_table(BUCKETS)?.insert(bucket, made)?;
        }
        for (at, object) in objects {
            change.txn.open_table(BUCKETS)?.insert(at.0, made)?;
            change.txn.open_table(OBJECTS)?.insert(at, encode(object)?.as_slice())?;
            change.retain(&object.segments)?;
        }
        for (id, number, upload, part) in parts {
            change.txn.open_table(BUCKETS)?.insert(upload.bucket.as_str(), made)?;
            change.txn.open_table(UPLOADS)?.insert(id, encode(upload)?.as_slice())?;
            change.txn.open_table(PARTS)?.insert((id, number), encode(part)?.as_slice())?;
            change.retain(&part.segments)?;
        }
        database::set_flag(&change.txn, NOTED).map_err(database::Error::Raw)?;
        change.commit().map(drop)
    }

    pub(super) fn change(&self) -> Result<Change> {
        Ok(Change { txn: self.db.begin_write()?, freed: Freed::default() })
    }
}

impl Change {
    pub fn object(&self, (bucket, key): (&str, &str)) -> Result<Option<Object>> {
        let objects = self.txn.open_table(OBJECTS)?;
        let value = objects.get((bucket, key))?;
        value.map(|value| decode(value.value())).transpose()
    }

    pub fn put(
        &mut self,
        at: (&str, &str),
        object: &Object,
        allowed: impl FnOnce(Option<&Object>) -> bool,
    ) -> Result<()> {
        let old = self.object(at)?;
        if !allowed(old.as_ref()) {
            return Err(Fault::Precondition);
        }
        self.retain(&object.segments)?;
        self.txn.open_table(OBJECTS)?.insert(at, encode(object)?.as_slice())?;
        if let Some(old) = old {
            self.release(&old.segments)?;
        }
        Ok(())
    }

    /// Counts one more use for each segment.
    pub fn retain(&mut self, segments: &[Segment]) -> Result<()> {
        let mut uses = self.txn.open_table(USES)?;
        for segment in segments {
            let blob = segment.blob.as_u128();
            let count = uses.get(blob)?.map_or(0, |count| count.value());
            uses.insert(blob, count + 1)?;
        }
        Ok(())
    }

    /// Counts one use less for each segment; blobs without a use are freed, and the note of what they
    /// were goes in any case.
    pub fn release(&mut self, segments: &[Segment]) -> Result<()> {
        let mut uses = self.txn.open_table(USES)?;
        for segment in segments {
            let blob = segment.blob.as_u128();
            let count = uses.get(blob)?.map_or(0, |count| count.value());
            if count > 1 {
                uses.insert(blob, count - 1)?;
            } else {
                uses.remove(blob)?;
                self.freed.blobs.push(segment.blob);
            }
        }
        if let Some(own) = note::own(segments)
            && uses.get(own.as_u128())?.is_some()
        {
            self.freed.notes.push(own);
        }
        Ok(())
    }

    /// Makes the change durable; returns the blobs that nothing uses then.
    pub fn commit(self) -> Result<Freed> {
        self.txn.commit()?;
        Ok(self.freed)
    }
}

pub(super) fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

pub(super) fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T> {
    Ok(serde_json::from_slice(value)?)
}
