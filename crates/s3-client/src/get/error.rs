//! Why a download failed, and whether a retry can help.

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
    #[error("the store refused {object} with status {status}, also with a new URL")]
    Denied { object: String, status: u16 },
    #[error("{object} does not exist (status 404)")]
    NotFound { object: String },
    #[error("{object}: the server responded with status {status}")]
    Status { object: String, status: u16 },
    #[error("the download of {object} was interrupted")]
    Broken { object: String, source: reqwest::Error },
    #[error("the download of {object} is too slow")]
    Slow { object: String, source: pace::Slow },
    #[error("{object}: the server sent {found}, but {expected} was requested")]
    Answer { object: String, expected: String, found: String },
    #[error("{object} changed during the download: {what} was {pinned}, now {found}")]
    Changed { object: String, what: &'static str, pinned: String, found: String },
    #[error("{object} has {found} bytes, expected {expected}")]
    Size { object: String, expected: u64, found: u64 },
    #[error("{object} has md5 {found}, expected {expected}")]
    Md5 { object: String, expected: String, found: String },
    #[error("{path} needs {needed} more bytes, but only {free} are free")]
    NoSpace { path: PathBuf, needed: u64, free: u64 },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read {path} back to verify it")]
    ReadBack { path: PathBuf, source: io::Error },
    #[error("the download was cancelled")]
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

    /// True if the bytes so far are right, so that a later download can resume.
    pub(super) fn is_interruption(&self) -> bool {
        self.is_transient() || matches!(self, Error::Cancelled)
    }
}
