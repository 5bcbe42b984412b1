//! Directory trees by open directories instead of paths: no symlink is followed, nothing outside is
//! reached, however the tree changes meanwhile.
//!
//! Used by `squashfs`, which reads whole trees and writes them, and by `recipe`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, fstatat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, Whence, fchownat, linkat, lseek, symlinkat, unlinkat};

/// What stat(2) tells.
pub type Stat = nix::sys::stat::FileStat;

/// Extended attributes: full names and values.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

const OPEN: OFlag = OFlag::O_CLOEXEC.union(OFlag::O_NOFOLLOW);

/// A directory held open.
#[derive(Debug)]
pub struct Dir {
    file: File,
}

impl Dir {
    /// Opens the directory at `path`; here alone links are followed, as the caller named it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_CLOEXEC | OFlag::O_DIRECTORY | OFlag::O_RDONLY;
        let fd = nix::fcntl::open(path, flags, Mode::empty())?;
        Ok(Self { file: File::from(fd) })
    }

    /// Opens the directory `name` in this one.
    pub fn child(&self, name: &[u8]) -> io::Result<Self> {
        let flags = OPEN | OFlag::O_DIRECTORY | OFlag::O_RDONLY;
        let fd = openat(&self.file, name, flags, Mode::empty())?;
        Ok(Self { file: File::from(fd) })
    }

    /// Opens the directory at a relative path, one component at a time.
    pub fn descend(&self, path: &[u8]) -> io::Result<Self> {
        let mut dir = Self { file: self.file.try_clone()? };
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            dir = dir.child(name)?;
        }
        Ok(dir)
    }

    /// The names in the directory in byte order, without `.` and `..`.
    pub fn names(&self) -> io::Result<Names> {
        let flags = OPEN | OFlag::O_DIRECTORY | OFlag::O_RDONLY;
        let mut listing = nix::dir::Dir::openat(&self.file, ".", flags, Mode::empty())?;
        let mut names = Names::default();
        for entry in listing.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Tells about `name` itself, not what it points to.
    pub fn stat(&self, name: &[u8]) -> io::Result<Stat> {
        Ok(fstatat(&self.file, name, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Tells about this directory.
    pub fn stat_self(&self) -> io::Result<Stat> {
        Ok(nix::sys::stat::fstat(&self.file)?)
    }

    /// Opens the regular file `name` for reading, its access time left alone where that is allowed.
    pub fn open_file(&self, name: &[u8]) -> io::Result<File> {
        // Not blocking: something else may have taken the file's place, a fifo for one.
        let flags = OPEN | OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        match openat(&self.file, name, flags | OFlag::O_NOATIME, Mode::empty()) {
            Ok(fd) => Ok(File::from(fd)),
            Err(Errno::EPERM) => Ok(File::from(openat(&self.file, name, flags, Mode::empty())?)),
            Err(error) => Err(error.into()),
        }
    }

    /// Where the symlink `name` points.
    pub fn read_link(&self, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(nix::fcntl::readlinkat(&self.file, name)?.into_vec())
    }

    /// The attributes of `name` itself.
    pub fn xattrs(&self, name: &[u8]) -> io::Result<Xattrs> {
        let path = self.proc_path(name);
        collect(xattr::list(&path), |name| xattr::get(&path, name))
    }

    /// The attributes of this directory.
    pub fn xattrs_self(&self) -> io::Result<Xattrs> {
        file_xattrs(&self.file)
    }

    /// A path to `name` that goes through this open directory, for calls that have no `at` form.
    fn proc_path(&self, name: &[u8]) -> PathBuf {
        let dir = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        dir.join(OsStr::from_bytes(name))
    }

    /// Makes the directory `name`, for its owner alone until its mode is set.
    pub fn make_dir(&self, name: &[u8]) -> io::Result<Self> {
        nix::sys::stat::mkdirat(&self.file, name, Mode::S_IRWXU)?;
        self.child(name)
    }

    /// Makes the file `name`, which must not exist.
    pub fn make_file(&self, name: &[u8]) -> io::Result<File> {
        let flags = OPEN | OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        Ok(File::from(openat(&self.file, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?))
    }

    /// Removes `name`, which is no directory.
    pub fn remove_file(&self, name: &[u8]) -> io::Result<()> {
        Ok(unlinkat(&self.file, name, UnlinkatFlags::NoRemoveDir)?)
    }

    pub fn make_symlink(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        Ok(symlinkat(target, &self.file, name)?)
    }

    /// Makes a device, fifo or socket; `device` is major and minor.
    pub fn make_node(&self, name: &[u8], kind: SFlag, device: (u64, u64)) -> io::Result<()> {
        let device = nix::sys::stat::makedev(device.0, device.1);
        Ok(nix::sys::stat::mknodat(&self.file, name, kind, Mode::S_IRUSR | Mode::S_IWUSR, device)?)
    }

    /// Makes `name` another name of `old_name` in `old_dir`.
    pub fn make_link(&self, name: &[u8], old_dir: &Self, old_name: &[u8]) -> io::Result<()> {
        Ok(linkat(&old_dir.file, old_name, &self.file, name, AtFlags::empty())?)
    }

    /// Gives `name` itself to an owner and a group.
    pub fn set_owner(&self, name: &[u8], uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        Ok(fchownat(&self.file, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Sets the permission bits of `name`, which the caller made and which is no symlink.
    pub fn set_mode(&self, name: &[u8], mode: u16) -> io::Result<()> {
        let mode = Mode::from_bits_truncate(mode.into());
        Ok(fchmodat(&self.file, name, mode, FchmodatFlags::FollowSymlink)?)
    }

    /// Sets access and modification time of `name` itself, in seconds since 1970.
    pub fn set_time(&self, name: &[u8], seconds: u32) -> io::Result<()> {
        let time = TimeSpec::new(i64::from(seconds), 0);
        Ok(utimensat(&self.file, name, &time, &time, UtimensatFlags::NoFollowSymlink)?)
    }

    /// Sets an attribute of `name` itself.
    pub fn set_xattr(&self, name: &[u8], attribute: &[u8], value: &[u8]) -> io::Result<()> {
        xattr::set(self.proc_path(name), OsStr::from_bytes(attribute), value)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The attributes of an open file; none where the file system has none.
pub fn file_xattrs(file: &File) -> io::Result<Xattrs> {
    use xattr::FileExt;
    collect(file.list_xattr(), |name| file.get_xattr(name))
}

fn collect(
    names: io::Result<xattr::XAttrs>,
    get: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>,
) -> io::Result<Xattrs> {
    let names = match names {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut attributes = Vec::new();
    for name in names {
        // `None`: removed since the names were listed.
        if let Some(value) = get(&name)? {
            attributes.push((OsString::into_vec(name), value));
        }
    }
    Ok(attributes)
}

/// Tells about an open file.
pub fn file_stat(file: &File) -> io::Result<Stat> {
    Ok(nix::sys::stat::fstat(file)?)
}

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
        match nix::fcntl::copy_file_range(from, Some(&mut at), to, Some(&mut to_at), step) {
            Ok(0) => break,
            Ok(count) => copied += count as u64,
            Err(Errno::EXDEV | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(copied)
}

/// Names of a directory in one piece of memory: a million of them are no million allocations.
#[derive(Debug, Default)]
pub struct Names {
    bytes: Vec<u8>,
    spans: Vec<(u32, u16)>,
}

impl Names {
    fn push(&mut self, name: &[u8]) {
        self.spans.push((self.bytes.len() as u32, name.len() as u16));
        self.bytes.extend_from_slice(name);
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.spans.sort_unstable_by_key(|span| slice(bytes, *span));
    }

    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.spans.get(index).map(|span| slice(&self.bytes, *span))
    }

    /// True if the sorted names hold this one.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.spans.binary_search_by_key(&name, |span| slice(&self.bytes, *span)).is_ok()
    }
}

fn slice(bytes: &[u8], (start, length): (u32, u16)) -> &[u8] {
    &bytes[start as usize..start as usize + usize::from(length)]
}
