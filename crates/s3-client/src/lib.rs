#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]
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
