//! File system figures that the standard library lacks. Called by `s3`.

use std::io;
use std::os::fd::AsFd;

use nix::sys::statvfs::fstatvfs;

/// Bytes that root may still write to the file system of `file`.
pub fn free_bytes(file: impl AsFd) -> io::Result<u64> {
    let figures = fstatvfs(file)?;
    Ok(figures.blocks_free() * figures.fragment_size())
}
