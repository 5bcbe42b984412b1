//! Squashfs 4.0: on-disk format, reader, writer, reuse of a base image, the external mksquashfs.

pub mod external;
pub mod format;
