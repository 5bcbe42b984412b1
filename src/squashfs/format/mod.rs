//! The on-disk structures of squashfs 4.0 (little endian), one file a structure.
//!
//! Source of the layout: Linux `fs/squashfs/squashfs_fs.h` and
//! `Documentation/filesystems/squashfs.rst`.

pub mod superblock;

pub use superblock::Superblock;
