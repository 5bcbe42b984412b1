//! The records of IMS in a crash-safe database: one table per collection, one JSON value per
//! record.
//!
//! Used by `api` and `launcher`. When a method returns, its change is on disk.

mod model;
mod stamp;

pub use model::{Connection, Deleted, Image, Job, KeyValue, Link, PublicKey, Recipe, SshContainer};
pub use stamp::Stamp;

use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::standalone::database::{self, Reopened, Tables, from_redb};

const TABLES: Tables = Tables {
    // Of the tables and of the records in them.
    schema: 1,
    make,
    advice: "Restore a backup of the file, or move the file away to start without records: \
             objects and the directories of jobs stay",
};

fn make(txn: &WriteTransaction) -> std::result::Result<(), redb::Error> {
    txn.open_table(table::<Image>())?;
    txn.open_table(table::<Recipe>())?;
    txn.open_table(table::<PublicKey>())?;
    txn.open_table(table::<Job>())?;
    txn.open_table(table::<Deleted<Image>>())?;
    txn.open_table(table::<Deleted<Recipe>>())?;
    txn.open_table(table::<Deleted<PublicKey>>())?;
    Ok(())
}

/// Something with an id that is kept in a table.
pub trait Record: Serialize + DeserializeOwned + Send + Sync + 'static {
    const TABLE: &'static str;
    fn id(&self) -> Uuid;
    /// What lists are sorted by.
    fn created(&self) -> Stamp;
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Database(#[from] database::Error),
    #[error("a record of {table} cannot be read or written as JSON")]
    Value { table: &'static str, source: serde_json::Error },
    #[error("the task of the record database failed")]
    Lost(#[source] tokio::task::JoinError),
}

from_redb!(Error);

pub type Result<T> = std::result::Result<T, Error>;

type Table = TableDefinition<'static, u128, &'static [u8]>;

fn table<T: Record>() -> Table {
    TableDefinition::new(T::TABLE)
}

impl Error {
    /// The directory that has no space left, if that is all.
    pub fn full(&self) -> Option<&Path> {
        match self {
            Error::Database(database::Error::Full { directory, .. }) => Some(directory),
            _ => None,
        }
    }

    /// Whether the file itself cannot be read.
    pub fn is_damage(&self) -> bool {
        matches!(self, Error::Database(database::Error::Damaged { .. }))
    }

    /// Whether the same may well succeed in a moment.
    pub fn is_passing(&self) -> bool {
        matches!(self, Error::Database(error) if error.is_passing())
    }
}

/// The database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Records {
    db: Arc<Reopened<Database>>,
}

impl Records {
    /// Opens the database, made if missing; fails while another process has it open. Blocking.
    pub fn open(path: &Path) -> Result<Self> {
        let first = std::sync::atomic::AtomicBool::new(true);
        let file = path.to_owned();
        let db = Reopened::open(path, TABLES.advice, move || {
            database::open(&file, &TABLES, first.swap(false, std::sync::atomic::Ordering::Relaxed))
        })?;
        Ok(Self { db: Arc::new(db) })
    }

    /// Whether records can be changed: a change that leaves no trace.
    pub async fn probe(&self) -> Result<()> {
        self.run(|db| Ok(database::probe(db).map_err(database::Error::Raw)?)).await
    }

    pub async fn get<T: Record>(&self, id: Uuid) -> Result<Option<T>> {
        self.run(move |db| {
            let table = db.begin_read()?.open_table(table::<T>())?;
            let value = table.get(id.as_u128())?;
            value.map(|value| decode(value.value())).transpose()
        })
        .await
    }

    /// All records of a collection, oldest first.
    pub async fn list<T: Record>(&self) -> Result<Vec<T>> {
        self.run(|db| {
            let table = db.begin_read()?.open_table(table::<T>())?;
            let mut records = Vec::new();
            for row in table.iter()? {
                records.push(decode::<T>(row?.1.value())?);
            }
            records.sort_by_key(T::created);
            Ok(records)
        })
        .await
    }

    pub async fn put<T: Record + Clone>(&self, record: &T) -> Result<()> {
        let record = record.clone();
        self.run(move |db| {
            let txn = db.begin_write()?;
            txn.open_table(table::<T>())?
                .insert(record.id().as_u128(), encode(&record)?.as_slice())?;
            Ok(txn.commit()?)
        })
        .await
    }

    /// Changes a record in place; `None` if there is none. No other change comes between.
    ///
    /// Gives the record and what `edit` returned.
    pub async fn update<T: Record, R: Send + 'static>(
        &self,
        id: Uuid,
        edit: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<Option<(T, R)>> {
        self.run(move |db| {
            let txn = db.begin_write()?;
            let changed = {
                let mut rows = txn.open_table(table::<T>())?;
                let found = rows.get(id.as_u128())?;
                let found = found.map(|value| decode::<T>(value.value())).transpose()?;
                let Some(mut record) = found else { return Ok(None) };
                let result = edit(&mut record);
                rows.insert(id.as_u128(), encode(&record)?.as_slice())?;
                (record, result)
            };
            txn.commit()?;
            Ok(Some(changed))
        })
        .await
    }

    /// Whether there was such a record.
    pub async fn remove<T: Record>(&self, id: Uuid) -> Result<bool> {
        self.run(move |db| {
            let txn = db.begin_write()?;
            let found = txn.open_table(table::<T>())?.remove(id.as_u128())?.is_some();
            txn.commit()?;
            Ok(found)
        })
        .await
    }

    /// Replaces a record of one collection by one of the same id in another, as one change.
    pub async fn exchange<From: Record, To: Record + Clone>(&self, to: &To) -> Result<()> {
        let to = to.clone();
        self.run(move |db| {
            let txn = db.begin_write()?;
            let id = to.id().as_u128();
            txn.open_table(table::<From>())?.remove(id)?;
            txn.open_table(table::<To>())?.insert(id, encode(&to)?.as_slice())?;
            Ok(txn.commit()?)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let db = Arc::clone(&self.db);
        tokio::task::spawn_blocking(move || db.run(work)).await.map_err(Error::Lost)?
    }
}

fn encode<T: Record>(record: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|source| Error::Value { table: T::TABLE, source })
}

fn decode<T: Record>(value: &[u8]) -> Result<T> {
    serde_json::from_slice(value).map_err(|source| Error::Value { table: T::TABLE, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> PublicKey {
        PublicKey {
            name: name.into(),
            public_key: "ssh-ed25519 AAAA".into(),
            id: Uuid::new_v4(),
            created: Stamp::now(),
        }
    }

    #[tokio::test]
    async fn records_survive_a_restart_and_lists_are_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        let names: Vec<String> = (0..20).map(|n| format!("key {n}")).collect();
        {
            let records = Records::open(&path).unwrap();
            for name in &names {
                records.put(&key(name)).await.unwrap();
            }
        }
        let records = Records::open(&path).unwrap();
        let found: Vec<PublicKey> = records.list().await.unwrap();
        assert_eq!(found.iter().map(|key| key.name.clone()).collect::<Vec<_>>(), names);
    }

    #[tokio::test]
    async fn an_exchange_moves_a_record() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(&dir.path().join("records")).unwrap();
        let key = key("k");
        records.put(&key).await.unwrap();
        let deleted = Deleted { record: key.clone(), deleted: Stamp::now() };
        records.exchange::<PublicKey, _>(&deleted).await.unwrap();
        assert!(records.get::<PublicKey>(key.id).await.unwrap().is_none());
        assert!(records.get::<Deleted<PublicKey>>(key.id).await.unwrap().is_some());
    }

    #[test]
    fn a_second_process_and_a_newer_schema_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        let first = Records::open(&path).unwrap();
        let refused = || Records::open(&path).unwrap_err().to_string();
        assert_eq!(refused(), format!("another process uses {}", path.display()));
        drop(first);
        let db = Database::open(&path).unwrap();
        let txn = db.begin_write().unwrap();
        let meta = TableDefinition::<&str, u64>::new("meta");
        txn.open_table(meta).unwrap().insert("schema", TABLES.schema + 1).unwrap();
        txn.commit().unwrap();
        drop(db);
        assert!(refused().contains("has schema 2, this program supports 1"), "{}", refused());
    }
}
