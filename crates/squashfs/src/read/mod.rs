//! Reads images: any that mksquashfs makes, and without trust in a byte of them.
//!
//! Whatever an image says, memory is bounded, nothing panics, and a walk ends.

mod data;
mod directory;
mod error;
mod image;
mod metadata;
mod tree;
mod xattrs;

pub use data::BlockReader;
pub(crate) use data::grown;
pub use directory::DirEntry;
pub use error::Error;
pub use image::Image;
pub use tree::{Guard, MAX_DEPTH, Node, Step, Walker};
