//! File system calls that the standard library lacks. Called by `s3`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::statvfs::fstatvfs;

/// Bytes that root may still write to the file system of `file`.
pub fn free_bytes(file: impl AsFd) -> io::Result<u64> {
    let figures = fstatvfs(file)?;
    Ok(figures.blocks_free() * figures.fragment_size())
}

/// Has the kernel write these bytes of `file` to its disk now instead of later, without waiting for it.
///
/// Whoever asks for durability afterwards, as the kernel does when it attaches a loop device, then waits
/// for little. Only a hint: a file system that cannot do it writes when it has to.
pub fn start_writeback(file: impl AsFd, start: u64, len: u64) {
    let (Ok(start), Ok(len)) = (start.try_into(), len.try_into()) else { return };
    let file = file.as_fd().as_raw_fd();
    // SAFETY: nix has no wrapper. The call takes integers alone, and the descriptor is open for as long
    // as `file` is borrowed.
    unsafe { libc::sync_file_range(file, start, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// A file that lies in memory: no directory needs to be writable.
pub fn memory_file(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("content", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    Ok(file)
}
