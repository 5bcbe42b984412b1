//! Shared by the databases of `records` and `s3`: opening, checking, and reopening after disk
//! errors; their errors; the version of their tables.
//!
//! After a failed read or write of its file, redb accepts no more requests, and it often reports
//! damage by a panic instead of an error. [`Reopened`] hides this: the request that failed gets a
//! plain error, and the database is open again for the next one.

mod open;

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Once, PoisonError, RwLock};

pub use open::{Tables, flag, open, probe, set_flag};

/// Lets `?` turn redb's several error types into the variant `Database` of one.
macro_rules! from_redb {
    ($to:ident) => {
        $crate::standalone::database::from_redb!(
            $to: DatabaseError TransactionError TableError StorageError CommitError
        );
        impl $crate::standalone::database::Failure for $to {
            fn database(self) -> std::result::Result<$crate::standalone::database::Error, Self> {
                match self {
                    Self::Database(error) => Ok(error),
                    other => Err(other),
                }
            }
        }
    };
    ($to:ident: $($error:ident)*) => { $(
        impl From<redb::$error> for $to {
            fn from(error: redb::$error) -> Self {
                Self::Database($crate::standalone::database::Error::Raw(error.into()))
            }
        }
    )* };
}
pub(in crate::standalone) use from_redb;

/// Why a database refuses or fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no space left on {directory}")]
    Full { directory: PathBuf, source: io::Error },
    #[error("cannot read or write {path}")]
    Io { path: PathBuf, source: io::Error },
    #[error("reopening {path} after a disk error, try again")]
    Reopening { path: PathBuf },
    #[error("{path} is damaged: {what}. Nothing was changed. {advice}")]
    Damaged { path: PathBuf, what: String, advice: &'static str },
    #[error("another process uses {path}")]
    InUse { path: PathBuf },
    #[error("{path} has schema {found}, this program supports {known}: use a newer version")]
    Schema { path: PathBuf, found: u64, known: u64 },
    #[error("the database failed")]
    Raw(#[source] redb::Error),
}

impl Error {
    /// Says which file it was, and what that means.
    fn at(self, path: &Path, advice: &'static str) -> Self {
        let Self::Raw(error) = self else { return self };
        let path = path.to_owned();
        match error {
            redb::Error::Io(source) if is_full(&source) => {
                Self::Full { directory: path.parent().unwrap_or(&path).to_owned(), source }
            }
            redb::Error::Io(source) => match source.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                    Self::Damaged { path, what: source.to_string(), advice }
                }
                _ => Self::Io { path, source },
            },
            redb::Error::PreviousIo
            | redb::Error::DatabaseClosed
            | redb::Error::LockPoisoned(_) => Self::Reopening { path },
            redb::Error::DatabaseAlreadyOpen => Self::InUse { path },
            other => Self::Damaged { path, what: other.to_string(), advice },
        }
    }

    /// Whether room on the disk was all that was missing.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Whether the same may well succeed in a moment.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Reopening { .. })
    }
}

/// Whether the disk, a quota or a limit of file sizes left no room for what was to be written.
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// An error that may be one of a database.
pub trait Failure: From<Error> {
    fn database(self) -> Result<Error, Self>;
}

type Opener<D> = Box<dyn Fn() -> Result<D, Error> + Send + Sync>;

/// A database that is opened again when the disk has failed it.
pub struct Reopened<D> {
    path: PathBuf,
    advice: &'static str,
    opener: Opener<D>,
    /// Which opening it is, and the database; none after a failure, until the next request.
    current: RwLock<(u64, Option<D>)>,
}

impl<D> std::fmt::Debug for Reopened<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reopened").field("path", &self.path).finish_non_exhaustive()
    }
}

impl<D> Reopened<D> {
    /// Opens it for the first time. `advice` is the way out of damage, for the operator.
    pub fn open(
        path: &Path,
        advice: &'static str,
        opener: impl Fn() -> Result<D, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let first = opener()?;
        let current = RwLock::new((0, Some(first)));
        Ok(Self { path: path.into(), advice, opener: Box::new(opener), current })
    }

    /// Does something with the database. Blocking.
    ///
    /// A change whose commit failed may still be on disk when the database is open again: after a
    /// disk error this is not known.
    pub fn run<T, E: Failure>(&self, work: impl FnOnce(&D) -> Result<T, E>) -> Result<T, E> {
        self.reopen()?;
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let (opening, Some(database)) = (current.0, &current.1) else {
            return Err(Error::Reopening { path: self.path.clone() }.into());
        };
        let done = quietly(|| work(database));
        drop(current);
        let error = match done {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => error.database()?.at(&self.path, self.advice),
            Err(panic) => {
                tracing::debug!(path = %self.path.display(), panic, "the database panicked");
                let what = "its pages contradict each other".to_owned();
                Error::Damaged { path: self.path.clone(), what, advice: self.advice }
            }
        };
        self.close(opening);
        Err(error.into())
    }

    /// Opens the database if a failure has closed it.
    fn reopen(&self) -> Result<(), Error> {
        if self.current.read().unwrap_or_else(PoisonError::into_inner).1.is_some() {
            return Ok(());
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.1.is_none() {
            *current = (current.0 + 1, Some((self.opener)()?));
            tracing::info!(path = %self.path.display(), "reopened the database");
        }
        Ok(())
    }

    /// Closes the database that failed, unless another has done so.
    fn close(&self, opening: u64) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.0 == opening {
            let closed = current.1.take();
            // Its end may meet the damage once more.
            let _ = quietly(|| drop(closed));
        }
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic over a damaged file, without a word on stderr; the panic's text if it did.
fn quietly<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    QUIET.set(outer);
    done.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or(
                "not UTF-8 \
            text",
            )
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use linux::Errno;

    #[derive(Debug)]
    struct Failed(Error);

    impl From<Error> for Failed {
        fn from(error: Error) -> Self {
            Self(error)
        }
    }

    impl Failure for Failed {
        fn database(self) -> Result<Error, Self> {
            Ok(self.0)
        }
    }

    fn raw(error: redb::Error) -> Result<(), Failed> {
        Err(Failed(Error::Raw(error)))
    }

    fn errno(number: Errno) -> redb::Error {
        redb::Error::Io(number.into())
    }

    #[test]
    fn what_the_disk_refuses_is_named_and_the_database_is_opened_again() {
        let openings = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&openings);
        let database = Reopened::open(Path::new("/data/x.redb"), "Do this", move || {
            Ok(counted.fetch_add(1, Ordering::SeqCst))
        });
        let database = database.unwrap();
        let said = |error| database.run(|_| raw(error)).unwrap_err().0;
        for full in [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG] {
            let error = said(errno(full));
            assert!(error.is_full());
            assert_eq!(error.to_string(), "no space left on /data");
        }
        assert_eq!(said(errno(Errno::EIO)).to_string(), "cannot read or write /data/x.redb");
        assert!(said(redb::Error::PreviousIo).is_passing());
        let damage = said(redb::Error::Corrupted("a page".into())).to_string();
        assert!(
            damage.contains("/data/x.redb is damaged") && damage.contains("Do this"),
            "{damage}"
        );
        let panic = database.run(|_| -> Result<(), Failed> { panic!("inside") }).unwrap_err().0;
        assert!(panic.to_string().contains("is damaged: its pages contradict each other"));
        assert_eq!(database.run(|opening| Ok::<_, Failed>(*opening)).unwrap(), 7);
        assert_eq!(openings.load(Ordering::SeqCst), 8);
    }

    #[test]
    fn one_that_cannot_be_opened_again_is_tried_at_each_request() {
        let openings = AtomicUsize::new(0);
        let database = Reopened::open(Path::new("/data/x.redb"), "", move || {
            match openings.fetch_add(1, Ordering::SeqCst) {
                1 | 2 => Err(Error::Raw(errno(Errno::EIO)).at(Path::new("/data/x.redb"), "")),
                opening => Ok(opening),
            }
        });
        let database = database.unwrap();
        database.run(|_| raw(errno(Errno::EIO))).unwrap_err();
        for _ in 0..2 {
            assert!(matches!(database.run(|_| Ok(())), Err(Failed(Error::Io { .. }))));
        }
        assert_eq!(database.run(|opening| Ok::<_, Failed>(*opening)).unwrap(), 3);
    }
}
