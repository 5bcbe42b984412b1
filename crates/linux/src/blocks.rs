//! Where the bytes of open files lie: holes, copies that share blocks, room on the disk.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, copy_file_range, fallocate};
use nix::unistd::{Whence, lseek};

/// Where the next data of a sparse file begins at or after `offset`; `None` if only a hole follows.
pub fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match lseek(file, offset as i64, Whence::SeekData) {
        Ok(found) => Ok(Some(found as u64)),
        Err(Errno::ENXIO) => Ok(None),
        // A file system without holes: all of it is data.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(Some(offset)),
        Err(error) => Err(error.into()),
    }
}

/// Gives the disk space of this part of a file back; it reads as zeroes from then on.
pub fn punch_hole(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let too_far = |_| io::Error::from(Errno::EINVAL);
    let (offset, length) =
        (offset.try_into().map_err(too_far)?, length.try_into().map_err(too_far)?);
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(file, flags, offset, length)?)
}

/// Copies `length` bytes between files inside the kernel, sharing blocks where the file system can.
/// How many were copied: fewer, even 0, where the kernel cannot do it for these files.
pub fn copy_range(
    from: &File,
    from_offset: u64,
    to: &File,
    to_offset: u64,
    length: u64,
) -> io::Result<u64> {
    let (mut at, mut to_at) = (from_offset as i64, to_offset as i64);
    let mut copied = 0;
    while copied < length {
        let step = (length - copied).min(1 << 30) as usize;
        match copy_file_range(from, Some(&mut at), to, Some(&mut to_at), step) {
            Ok(0) => break,
            Ok(count) => copied += count as u64,
            Err(Errno::EXDEV | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(copied)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_hole_takes_no_room_reads_as_zeroes_and_is_found() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 1 << 20]).unwrap();
        let blocks = || file.as_file().metadata().unwrap().blocks();
        let before = blocks();
        punch_hole(file.as_file(), 0, 1 << 19).unwrap();
        assert!(blocks() < before);
        let content = std::fs::read(file.path()).unwrap();
        assert!(content.len() == 1 << 20 && content[(1 << 19) - 1] == 0 && content[1 << 19] == 7);
        assert_eq!(next_data(file.as_file(), 0).unwrap(), Some(1 << 19));
        assert_eq!(next_data(file.as_file(), 1 << 20).unwrap(), None);
    }

    #[test]
    fn a_range_is_copied_to_another_place() {
        let (from, to) = (tempfile::tempfile().unwrap(), tempfile::NamedTempFile::new().unwrap());
        std::os::unix::fs::FileExt::write_all_at(&from, b"0123456789", 0).unwrap();
        let copied = copy_range(&from, 3, to.as_file(), 1, 4).unwrap();
        // Some file systems leave it to the caller.
        assert!(copied == 0 || std::fs::read(to.path()).unwrap() == b"\x003456");
    }
}
