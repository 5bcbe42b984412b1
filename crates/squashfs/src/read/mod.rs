//! Reads images: any that mksquashfs makes, and without trust in a byte of them.
//!
//! Used by `unpack`, `reuse`, `diff`, the command line and by `workspace` for its preflight. Whatever
//! an image says, memory is bounded, nothing panics, and a walk ends.

mod data;
mod directory;
mod error;
mod image;
mod metadata;
mod tree;
mod xattrs;

pub use data::BlockReader;
pub(super) use data::grown;
pub use directory::DirEntry;
pub use error::Error;
pub use image::Image;
pub use tree::{Guard, MAX_DEPTH, Node, Step, Walker};
