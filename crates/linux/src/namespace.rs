//! Namespaces and the mounts of a private mount namespace.
//!
//! Every function acts on the calling process, which must be single-threaded.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{chroot, fchdir, pivot_root};

/// Own mounts, IPC objects and host name; all later children are in an own pid namespace, the next one
/// as its first process. This process stays outside of that.
///
/// `control_groups`: the group that the process is in becomes the top of all that it can see and, where
/// it may mount, write to.
pub fn leave(control_groups: bool) -> io::Result<()> {
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    flags.set(CloneFlags::CLONE_NEWCGROUP, control_groups);
    Ok(unshare(flags)?)
}

/// No mount or unmount goes out of this namespace, none comes in.
pub fn make_private() -> io::Result<()> {
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    Ok(mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?)
}

/// Makes the tree at `root`, with the mounts below it, `/` of this namespace.
///
/// Device nodes in it cannot be opened (nodev): they can be made, as packages do, but lead nowhere.
/// Returned is the old root, out of sight but still a source of bind mounts; `detach` ends that.
pub fn pivot_into(root: &Path) -> io::Result<OwnedFd> {
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(root), root, None::<&str>, bind, None::<&str>)?;
    forbid_devices(root)?;
    let old = handle(Path::new("/"))?;
    fchdir(handle(root)?)?;
    // pivot_root(2): with both the same, the old root is stacked on the new one. Paths from `/`
    // begin below that.
    pivot_root(".", ".")?;
    std::env::set_current_dir("/")?;
    Ok(old)
}

/// Takes an old root, with all that is mounted in it, out of this namespace.
pub fn detach(old: OwnedFd) -> io::Result<()> {
    fchdir(old)?;
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")
}

/// `struct mount_attr` (uapi/linux/mount.h).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

// uapi/linux/mount.h
const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NODEV: u64 = 4;

/// Makes all mounts at and below `path` nodev.
pub fn forbid_devices(path: &Path) -> io::Result<()> {
    set_below(path, MOUNT_ATTR_NODEV)
}

/// Makes `path`, a part of a mount, a mount of its own that is read-only with all below it.
pub fn make_read_only(path: &Path) -> io::Result<()> {
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(path), path, None::<&str>, bind, None::<&str>)?;
    set_below(path, MOUNT_ATTR_RDONLY)
}

/// Lets a mount that hangs nowhere be written to. Needs no single thread.
pub fn make_writable(mount: impl AsFd) -> io::Result<()> {
    let attr = MountAttr { attr_set: 0, attr_clr: MOUNT_ATTR_RDONLY, propagation: 0, userns_fd: 0 };
    // SAFETY: the empty path and the attribute are live for the call, the size is passed.
    let rc = unsafe {
        let (mount, path, size) = (mount.as_fd().as_raw_fd(), c"".as_ptr(), size_of::<MountAttr>());
        libc::syscall(libc::SYS_mount_setattr, mount, path, libc::AT_EMPTY_PATH, &attr, size)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Adds attributes to all mounts at and below `path` (mount_setattr(2), Linux 5.12).
fn set_below(path: &Path, attributes: u64) -> io::Result<()> {
    let attr = MountAttr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: path and attribute are live for the call, the size is passed; nix has no
    // mount_setattr.
    let rc = unsafe {
        let (here, flags, size) = (libc::AT_FDCWD, libc::AT_RECURSIVE, size_of::<MountAttr>());
        libc::syscall(libc::SYS_mount_setattr, here, path.as_ptr(), flags, &attr, size)
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Mounts a fresh file system of `fstype` at `target`; never executable or setuid unless requested.
pub fn mount_fresh(fstype: &str, target: &Path, flags: MsFlags, data: &str) -> io::Result<()> {
    Ok(mount(Some(fstype), target, Some(fstype), flags, Some(data))?)
}

/// Binds a device of the container over `target`, usable even where its file system is nodev.
///
/// Needs a `/proc` of this pid namespace.
pub fn bind_device(source: impl AsFd, target: &Path) -> io::Result<()> {
    let source = format!("/proc/self/fd/{}", source.as_fd().as_raw_fd());
    mount(Some(source.as_str()), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    // A bind mount takes over the flags of where it comes from; this sets them again.
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    Ok(mount(None::<&str>, target, None::<&str>, flags, None::<&str>)?)
}

/// Whatever is at `path`, links followed, as a handle to mount or enter; not opened for reading.
pub fn handle(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// An empty read-only directory that hangs nowhere: a root from which no name leads to anything.
///
/// `place` is any directory; it is covered for a moment.
pub fn empty_directory(place: &Path) -> io::Result<OwnedFd> {
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount_fresh("tmpfs", place, flags, "size=4k,nr_inodes=2,mode=555")?;
    let directory = handle(place);
    umount2(place, MntFlags::MNT_DETACH)?;
    directory
}

/// Makes the open directory this process' `/` and working directory.
pub fn change_root(directory: impl AsFd) -> io::Result<()> {
    fchdir(directory)?;
    chroot(".")?;
    Ok(())
}

/// Makes a device-file-shaped mount target: an empty regular file.
pub fn touch(path: &Path) -> io::Result<()> {
    std::fs::OpenOptions::new().write(true).create_new(true).open(path).map(drop)
}
