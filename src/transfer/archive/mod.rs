//! Archives of image roots, turned into squashfs in one pass and without unpacking them to disk.
//!
//! `reader` reads tar as GNU tar and libarchive write it, `tree` keeps the entries of the archive,
//! and `convert` feeds the packer: contents as they arrive, the tree at the end.

mod convert;
mod error;
mod pax;
mod reader;
mod sparse;
mod tree;

pub use convert::{Converted, convert};
pub use error::Error;
pub use reader::{Entry, Kind, Reader, is_header};
