//! File system calls that the standard library lacks. Called by `s3`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statvfs::fstatvfs;

/// Bytes that root may still write to the file system of `file`.
pub fn free_bytes(file: impl AsFd) -> io::Result<u64> {
    let figures = fstatvfs(file)?;
    Ok(figures.blocks_free() * figures.fragment_size())
}

/// A file that lies in memory: no directory needs to be writable.
pub fn memory_file(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("content", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    Ok(file)
}
