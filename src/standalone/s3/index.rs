//! Which objects there are: a redb database beside the blobs. Every change is one transaction.
//!
//! Blocking; `service` calls it from blocking tasks. Blobs carry a use count, so that copies share
//! them; a change returns the blobs that nothing uses any more.

use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::model::{Object, Segment};
use crate::standalone::database::{from_redb, schema};

const SCHEMA: u64 = 1;
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
    #[error("a condition of the request does not hold")]
    Precondition,
    #[error("the object index failed")]
    Database(#[source] redb::Error),
    #[error("a value of the object index cannot be read")]
    Value(#[from] serde_json::Error),
    #[error("the object index has schema {0}, this program knows {SCHEMA}: use a newer one")]
    Schema(u64),
}

from_redb!(Fault);

pub type Result<T> = std::result::Result<T, Fault>;

/// The database of objects.
#[derive(Debug)]
pub struct Index {
    pub(super) db: Database,
}

/// A writing transaction in progress, and the blobs it freed so far.
pub(super) struct Change {
    pub txn: WriteTransaction,
    pub freed: Vec<Uuid>,
}

impl Index {
    /// Opens the database, made if missing; fails while another process has it open.
    pub fn open(path: &Path) -> Result<Self> {
        let db = Database::create(path)?;
        let txn = db.begin_write()?;
        match schema(&txn, SCHEMA).map_err(Fault::Database)? {
            SCHEMA => {}
            other => return Err(Fault::Schema(other)),
        }
        txn.open_table(BUCKETS)?;
        txn.open_table(OBJECTS)?;
        txn.open_table(UPLOADS)?;
        txn.open_table(PARTS)?;
        txn.open_table(USES)?;
        txn.commit()?;
        Ok(Self { db })
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
    ) -> Result<Vec<Uuid>> {
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
    ) -> Result<(Object, Vec<Uuid>)> {
        self.check_bucket(source.0)?;
        self.check_bucket(destination.0)?;
        let mut change = self.change()?;
        let mut object =
            change.object(source)?.ok_or_else(|| Fault::NoSuchKey(source.1.to_owned()))?;
        if !edit(&mut object) {
            return Err(Fault::Precondition);
        }
        change.put(destination, &object, |_| true)?;
        Ok((object, change.commit()?))
    }

    /// Removes objects; those that do not exist are no error, as in S3.
    pub fn remove(&self, bucket: &str, keys: &[&str]) -> Result<Vec<Uuid>> {
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

    /// Whether any object or part uses this blob.
    pub fn uses(&self, blob: Uuid) -> Result<bool> {
        Ok(self.db.begin_read()?.open_table(USES)?.get(blob.as_u128())?.is_some())
    }

    pub(super) fn change(&self) -> Result<Change> {
        Ok(Change { txn: self.db.begin_write()?, freed: Vec::new() })
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

    /// Counts one use less for each segment; blobs without a use are freed.
    pub fn release(&mut self, segments: &[Segment]) -> Result<()> {
        let mut uses = self.txn.open_table(USES)?;
        for segment in segments {
            let blob = segment.blob.as_u128();
            let count = uses.get(blob)?.map_or(0, |count| count.value());
            if count > 1 {
                uses.insert(blob, count - 1)?;
            } else {
                uses.remove(blob)?;
                self.freed.push(segment.blob);
            }
        }
        Ok(())
    }

    /// Makes the change durable; returns the blobs to remove.
    pub fn commit(self) -> Result<Vec<Uuid>> {
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
