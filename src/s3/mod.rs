//! The object store: ranged verified downloads, multipart uploads, etag arithmetic.
//!
//! Called by `job` (fetch) and `publish` (upload). Tried on the Ceph RADOS gateway; every request is
//! path style and signed with SigV4. One TLS stack serves all of it: the SDK speaks through the
//! HTTP client of `net` (see `connector`).

mod connector;
mod copy;
mod error;
pub mod etag;
pub mod get;
mod multipart;
mod object;
pub mod put;
mod store;
#[cfg(test)]
pub mod testing;
mod unanswered;

pub use error::Error;
pub use object::{BadPath, Object};
pub use put::Uploaded;
pub use store::{Config, Head, Store};
