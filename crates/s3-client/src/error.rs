//! Errors of the store, and whether a retry can help.

use std::io;
use std::time::Duration;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use net::{Failure, body, trust};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Error codes that ask for a retry, regardless of the HTTP status.
const TRANSIENT_CODES: [&str; 6] = [
    "InternalError",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
];

/// The server errors that will not pass.
const NOT_IMPLEMENTED: u16 = 501;
const INSUFFICIENT_STORAGE: u16 = 507;

/// Error codes for no space, regardless of the HTTP status: a quota of Ceph, MinIO.
const FULL_CODES: [&str; 4] =
    ["QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"];

/// Why the store did not do what it was asked for.
#[allow(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {operation} {target}: the store answered {status} {code} {message}")]
    Refused { operation: &'static str, target: String, status: u16, code: String, message: String },
    #[error(
        "cannot {operation} {target}: the store has no space left (it answered {status} {code} {message})"
    )]
    Full { operation: &'static str, target: String, status: u16, code: String, message: String },
    #[error("cannot {operation} {target}: no response from the store")]
    Unanswered { operation: &'static str, target: String, source: BoxError },
    #[error("cannot {operation} {target}: cannot build the request")]
    Request { operation: &'static str, target: String, source: BoxError },
    #[error("cannot read what is to be uploaded as {target}")]
    Local { target: String, source: io::Error },
    #[error("{target} had {sent} bytes when it was hashed, and its size has changed since")]
    Resized { target: String, sent: u64 },
    #[error("what was to be uploaded as {target} has md5 {found}, not {expected}")]
    Wrong { target: String, expected: String, found: String },
    #[error("the store holds {target} with {what} {found}, but {expected} was sent")]
    Differs { target: String, what: String, expected: String, found: String },
    #[error("cannot read {target}")]
    Answer { target: String, source: body::Error },
    #[error("cannot set up the client of the object store")]
    Trust(#[from] trust::Error),
    #[error("cancelled before the object store was done")]
    Cancelled,
}

impl Error {
    /// True where the same request may well succeed later: no answer, 5xx, throttling.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Refused { status, code, .. } => {
                let later = *status >= 500 && *status != NOT_IMPLEMENTED;
                later || matches!(*status, 408 | 429) || TRANSIENT_CODES.contains(&code.as_str())
            }
            Error::Unanswered { source, .. } => !trust::is_untrusted(source.as_ref()),
            Error::Answer { source, .. } => matches!(source, body::Error::Broken(_)),
            _ => false,
        }
    }

    /// True where a site can repair what failed: keys, certificates, quota, clocks, the store itself.
    pub fn is_repairable(&self) -> bool {
        match self {
            Error::Refused { .. }
            | Error::Full { .. }
            | Error::Unanswered { .. }
            | Error::Differs { .. }
            | Error::Answer { .. }
            | Error::Trust(_) => true,
            Error::Request { .. }
            | Error::Local { .. }
            | Error::Resized { .. }
            | Error::Wrong { .. }
            | Error::Cancelled => false,
        }
    }

    /// True where the store may have carried the request out, or may still do so, although no answer says it.
    pub(super) fn is_ambiguous(&self) -> bool {
        match self {
            Error::Refused { status, .. } => *status >= 500 && *status != NOT_IMPLEMENTED,
            Error::Unanswered { source, .. } => !never_arrived(source.as_ref()),
            _ => false,
        }
    }

    /// True where the bytes were damaged on their way: worth one more try, not more.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Error::Refused { code, .. } if code == "BadDigest" || code == "InvalidDigest")
    }

    /// True where the store knows no such object, bucket or upload.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Refused { status: 404, .. })
    }

    /// True where what was to be removed is not there. A bucket that is said not to be there proves
    /// nothing: the object was written into it a moment ago.
    pub(super) fn is_removed(&self) -> bool {
        matches!(self, Error::Refused { status: 404, code, .. } if code != "NoSuchBucket")
    }

    /// True where the store has no room for more: a full disk, a quota. Asking again changes nothing until
    /// somebody has made room.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self, Error::Full { .. })
    }

    /// True where the store does not know the operation.
    pub(super) fn is_not_implemented(&self) -> bool {
        matches!(self, Error::Refused { status: NOT_IMPLEMENTED, .. })
    }

    pub(super) fn code(&self) -> Option<&str> {
        match self {
            Error::Refused { code, .. } => Some(code),
            _ => None,
        }
    }

    /// No answer within the `limit` of one try.
    pub(super) fn late(operation: &'static str, target: &str, limit: Duration) -> Self {
        let source = format!("no data within {} s", limit.as_secs_f32()).into();
        Error::Unanswered { operation, target: target.to_owned(), source }
    }

    pub(super) fn from_sdk<E>(
        operation: &'static str,
        target: &str,
        error: SdkError<E, HttpResponse>,
    ) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let target = target.to_owned();
        if let Some(response) = error.raw_response() {
            let status = response.status().as_u16();
            if status >= 300 || error.as_service_error().is_some() {
                let code = error.code().unwrap_or_default().to_owned();
                let message = error.message().unwrap_or_default().to_owned();
                if status == INSUFFICIENT_STORAGE || FULL_CODES.contains(&code.as_str()) {
                    return Error::Full { operation, target, status, code, message };
                }
                return Error::Refused { operation, target, status, code, message };
            }
        }
        match error {
            SdkError::ConstructionFailure(_) => {
                Error::Request { operation, target, source: error.into_source_box() }
            }
            SdkError::DispatchFailure(ref failure) if failure.is_user() => {
                Error::Request { operation, target, source: error.into_source_box() }
            }
            _ => Error::Unanswered { operation, target, source: error.into_source_box() },
        }
    }
}

/// Whether there was no connection over which anything could have been sent.
fn never_arrived(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| cause.downcast_ref().is_some_and(reqwest::Error::is_connect))
}

impl From<Failure<Error>> for Error {
    fn from(failure: Failure<Error>) -> Self {
        match failure {
            Failure::Gave(error) => error,
            Failure::Cancelled => Error::Cancelled,
        }
    }
}

/// The cause inside an SDK error, without the SDK's own wording ("dispatch failure").
trait IntoSourceBox {
    fn into_source_box(self) -> BoxError;
}

impl<E> IntoSourceBox for SdkError<E, HttpResponse>
where
    E: std::error::Error + Send + Sync + 'static,
{
    fn into_source_box(self) -> BoxError {
        self.into_source().unwrap_or_else(|error| Box::new(error))
    }
}
