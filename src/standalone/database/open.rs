//! Opens a database file completely or not at all: checked, and never created over an existing
//! file.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{Builder, Database, ReadableDatabase, TableDefinition, WriteTransaction};

use super::{Error, quietly};

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const SCHEMA: &str = "schema";
const PROBE: TableDefinition<u8, &[u8]> = TableDefinition::new("probe");
const PROBE_SIZE: usize = 256 * 1024;

/// Memory for pages, a database.
const CACHE: usize = 64 * 1024 * 1024;

/// What a database must have in it.
#[derive(Debug, Clone, Copy)]
pub struct Tables {
    pub schema: u64,
    pub make: fn(&WriteTransaction) -> Result<(), redb::Error>,
    /// The way out of damage, for the operator.
    pub advice: &'static str,
}

/// Opens the database at `path`, made if there is no such file. Blocking.
///
/// `check` walks through all its pages: damage is an error of the start, not of some request later.
pub fn open(path: &Path, tables: &Tables, check: bool) -> Result<Database, Error> {
    let advice = tables.advice;
    match path.metadata() {
        Ok(found) if found.len() == 0 => {
            let what = "it is empty, but it was not empty before".to_owned();
            return Err(Error::Damaged { path: path.into(), what, advice });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return placed(path, advice, || make(path, tables));
        }
        Err(error) => return Err(Error::Raw(error.into()).at(path, advice)),
    }
    let database = placed(path, advice, || existing(path, check))?;
    let found = placed(path, advice, || schema(&database))?;
    if found != tables.schema {
        return Err(Error::Schema { path: path.into(), found, known: tables.schema });
    }
    Ok(database)
}

/// Errors and panics of `work` as errors about the file.
fn placed<T>(
    path: &Path,
    advice: &'static str,
    work: impl FnOnce() -> Result<T, redb::Error>,
) -> Result<T, Error> {
    match quietly(work) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::Raw(error).at(path, advice)),
        Err(panic) => {
            tracing::debug!(path = %path.display(), panic, "the database panicked");
            let what = "its pages contradict each other".to_owned();
            Err(Error::Damaged { path: path.into(), what, advice })
        }
    }
}

/// The file has its name only once it is a database: an empty one was truncated later.
fn make(path: &Path, tables: &Tables) -> Result<Database, redb::Error> {
    let draft = path.with_extension("new");
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let database = Builder::new().set_cache_size(CACHE).create(&draft)?;
    let txn = database.begin_write()?;
    txn.open_table(META)?.insert(SCHEMA, tables.schema)?;
    (tables.make)(&txn)?;
    txn.commit()?;
    std::fs::rename(&draft, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()?;
    Ok(database)
}

fn existing(path: &Path, check: bool) -> Result<Database, redb::Error> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    let repaired = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&repaired);
    builder.set_repair_callback(move |_| seen.store(true, Ordering::Relaxed));
    let mut database = builder.open(path)?;
    // After a crash redb itself has looked at every page.
    if check && !repaired.load(Ordering::Relaxed) && !database.check_integrity()? {
        tracing::warn!(path = %path.display(), "the database was damaged and has been repaired");
    }
    Ok(database)
}

fn schema(database: &Database) -> Result<u64, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    Ok(meta.get(SCHEMA)?.map_or(0, |value| value.value()))
}

/// Whether the database can be written: a durable change, as large as records may be, and
/// undone. A smaller one may find room in the file where the next record does not. Blocking.
pub fn probe(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    txn.open_table(PROBE)?.insert(0, [0; PROBE_SIZE].as_slice())?;
    txn.commit()?;
    let txn = database.begin_write()?;
    txn.open_table(PROBE)?.remove(0)?;
    Ok(txn.commit()?)
}

/// Whether something that is done once has been done.
pub fn flag(database: &Database, name: &str) -> Result<bool, redb::Error> {
    Ok(database.begin_read()?.open_table(META)?.get(name)?.is_some())
}

pub fn set_flag(txn: &WriteTransaction, name: &str) -> Result<(), redb::Error> {
    txn.open_table(META)?.insert(name, 1)?;
    Ok(())
}
