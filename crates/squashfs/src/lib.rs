#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs, unreachable_pub)]

pub mod codec;
pub mod diff;
pub mod external;
pub mod format;
mod marks;
pub mod read;
pub mod reuse;
pub mod unpack;
pub mod write;

pub use unpack::unpack;
pub use write::{Options, Summary, pack};

#[cfg(test)]
mod properties;
#[cfg(any(test, feature = "testing"))]
pub mod test_tree;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
