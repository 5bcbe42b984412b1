//! Why a download failed, and whether trying again can help.

use std::io;
use std::path::PathBuf;

use super::SourceError;
use net::{pace, trust};

/// Why an object was not downloaded.
#[allow(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no URL to download from")]
    Source(#[source] SourceError),
    #[error("{object} was refused with status {status}, from a fresh URL as well")]
    Denied { object: String, status: u16 },
    #[error("{object} does not exist (status 404)")]
    NotFound { object: String },
    #[error("{object} was answered with status {status}")]
    Status { object: String, status: u16 },
    #[error("the download of {object} broke off")]
    Broken { object: String, source: reqwest::Error },
    #[error("the download of {object} is too slow")]
    Slow { object: String, source: pace::Slow },
    #[error("{object} was answered with {found}, but {expected} was asked for")]
    Answer { object: String, expected: String, found: String },
    #[error("{object} changed meanwhile: {what} was {pinned}, now {found}")]
    Changed { object: String, what: &'static str, pinned: String, found: String },
    #[error("{object} is {found} bytes long, but {expected} were expected")]
    Size { object: String, expected: u64, found: u64 },
    #[error("{object} has the md5 {found}, but {expected} was expected")]
    Md5 { object: String, expected: String, found: String },
    #[error("{path} needs {needed} bytes more, and only {free} are free there")]
    NoSpace { path: PathBuf, needed: u64, free: u64 },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {path} back to verify it")]
    ReadBack { path: PathBuf, source: io::Error },
    #[error("the download was stopped")]
    Cancelled,
}

impl Error {
    /// True where asking again for the same range can help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Error::Status { status, .. } => *status >= 500 || *status == 429 || *status == 408,
            Error::Broken { source, .. } => !trust::is_untrusted(source),
            Error::Slow { .. } | Error::Answer { .. } => true,
            _ => false,
        }
    }

    /// True where what came so far is right, and a later download can go on with it.
    pub(super) fn is_interruption(&self) -> bool {
        self.is_transient() || matches!(self, Error::Cancelled)
    }
}
