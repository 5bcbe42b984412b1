//! Squashfs 4.0: on-disk format, reader, writer, reuse of a base image, the external mksquashfs.

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
