//! File operations that the standard library lacks, by name or on open files.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, Flock, FlockArg, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{self, FchmodatFlags, Mode, UtimensatFlags};
use nix::sys::time::TimeSpec;

/// Flags of open(2).
pub use nix::fcntl::OFlag;

/// open(2) with flags the caller has put together; never a controlling terminal, never inherited.
pub fn open(path: &Path, flags: OFlag, mode: u32) -> io::Result<File> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    Ok(nix::fcntl::open(path, flags, Mode::from_bits_truncate(mode))?.into())
}

/// truncate(2): unlike opening and setting a length, it does not wait for a FIFO's other end.
pub fn truncate(path: &Path, size: u64) -> io::Result<()> {
    let size = i64::try_from(size).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    Ok(nix::unistd::truncate(path, size)?)
}

/// Sets access and modification time, in seconds since 1970; of a link itself if not `follow`.
pub fn set_times(path: &Path, times: (u32, u32), follow: bool) -> io::Result<()> {
    let flag = match follow {
        true => UtimensatFlags::FollowSymlink,
        false => UtimensatFlags::NoFollowSymlink,
    };
    let (access, modification) = specs(times);
    Ok(stat::utimensat(AT_FDCWD, path, &access, &modification, flag)?)
}

/// Sets access and modification time of an open file, in seconds since 1970.
pub fn set_times_of(file: &File, times: (u32, u32)) -> io::Result<()> {
    let (access, modification) = specs(times);
    Ok(stat::futimens(file, &access, &modification)?)
}

fn specs((access, modification): (u32, u32)) -> (TimeSpec, TimeSpec) {
    (TimeSpec::new(access.into(), 0), TimeSpec::new(modification.into(), 0))
}

/// Sets the mode of `path` itself; on most systems that fails for a link (EOPNOTSUPP).
pub fn set_mode_of_link(path: &Path, mode: u32) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(mode);
    Ok(stat::fchmodat(AT_FDCWD, path, mode, FchmodatFlags::NoFollowSymlink)?)
}

/// A file that no other process can lock meanwhile (flock(2)). Unlocked by its end, and by that of the
/// process.
#[derive(Debug)]
pub struct Locked(Flock<File>);

impl Locked {
    /// Locks it; gives it back, with the reason, where that cannot be done at once.
    pub fn exclusively(file: File) -> Result<Locked, (File, Errno)> {
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map(Locked)
    }
}

impl Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

/// A file that lies in memory: no directory needs to be writable.
pub fn memory_file(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("content", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    Ok(file)
}

/// Asks for a larger buffer, where this is a pipe; what is refused costs speed and nothing else.
pub fn enlarge_pipe(pipe: BorrowedFd<'_>, size: i32) {
    let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(size));
}

/// Most descriptors that this process may have open.
pub fn descriptor_limit() -> u64 {
    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
        .map_or(256, |(soft, _)| soft)
}

/// Stdin and stdout as files that are ours alone: no buffer of the standard library between.
pub fn take_stdio() -> io::Result<(File, File)> {
    let take = |fd: BorrowedFd<'_>| Ok::<_, io::Error>(File::from(fd.try_clone_to_owned()?));
    let (input, output) = (take(io::stdin().as_fd())?, take(io::stdout().as_fd())?);
    debug_assert!(input.as_raw_fd() > 2 && output.as_raw_fd() > 2);
    Ok((input, output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_had_once_and_freed_by_its_end() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let again = || File::open(file.path()).unwrap();
        let locked = Locked::exclusively(again()).unwrap();
        let (_, errno) = Locked::exclusively(again()).unwrap_err();
        assert_eq!(errno, Errno::EWOULDBLOCK);
        drop(locked);
        assert!(Locked::exclusively(again()).is_ok());
    }
}
