//! The object store: ranged verified downloads, multipart uploads, etag arithmetic.
//!
//! Tried on the Ceph RADOS gateway; every request is
//! path style and signed with SigV4. One TLS stack serves all of it: the SDK speaks through the
//! HTTP client of `net` (see `connector`).

// The futures of the AWS SDK nest deeply.
#![recursion_limit = "256"]

mod connector;
mod copy;
mod error;
pub mod etag;
pub mod get;
mod multipart;
mod object;
pub mod put;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod unanswered;

pub use error::Error;
pub use object::{BadPath, Object};
pub use put::Uploaded;
pub use store::{Config, Head, Store};
