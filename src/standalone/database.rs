//! What the databases of `records` and `s3` have in common: their errors, and the version of their tables.

use redb::{ReadableTable, TableDefinition, WriteTransaction};

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const SCHEMA: &str = "schema";

/// Lets `?` turn redb's several error types into the variant `Database` of one.
macro_rules! from_redb {
    ($to:ident) => {
        $crate::standalone::database::from_redb!(
            $to: DatabaseError TransactionError TableError StorageError CommitError
        );
    };
    ($to:ident: $($error:ident)*) => { $(
        impl From<redb::$error> for $to {
            fn from(error: redb::$error) -> Self {
                Self::Database(error.into())
            }
        }
    )* };
}
pub(in crate::standalone) use from_redb;

/// The schema of the tables: `wanted` in a database that was just made.
pub fn schema(txn: &WriteTransaction, wanted: u64) -> Result<u64, redb::Error> {
    let mut meta = txn.open_table(META)?;
    let found = meta.get(SCHEMA)?.map(|value| value.value());
    if found.is_none() {
        meta.insert(SCHEMA, wanted)?;
    }
    Ok(found.unwrap_or(wanted))
}
