//! A control group of our own below the one that this process is in (cgroup v2), for programs that are
//! attached to it.
//!
//! It does not matter where the system has the hierarchy: unified, hybrid, or nowhere beside v1, and whether
//! a container may write to it. No controller is turned on in it: existing limits on the processes
//! continue to do so.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsmount, fsopen,
    open_tree,
};

use super::mountinfo;

/// How long the kernel may take to see that the last process of a group has gone.
const PATIENCE: Duration = Duration::from_secs(5);

/// A group that nobody else uses. Dropping it removes it if it can be; see `remove`.
#[derive(Debug)]
pub struct Group {
    parent: OwnedFd,
    name: String,
    /// Its directory, locked: what is not locked is a dead process's.
    directory: Flock<OwnedFd>,
    removed: bool,
}

impl Group {
    /// Makes a group whose name begins with `prefix`. Empty ones of that kind that processes before have
    /// left when they were killed are removed.
    pub fn make(prefix: &str) -> io::Result<Group> {
        let parent = own_directory()?;
        remove_stale(&parent, prefix);
        for _ in 0..10 {
            let name = format!("{prefix}{:016x}", rand::random::<u64>());
            mkdirat(&parent, name.as_str(), Mode::from_bits_truncate(0o755))?;
            // Another process may take it for a stale one before it is locked.
            let Ok(made) = directory(&parent, &name) else { continue };
            let locked = Flock::lock(made, FlockArg::LockExclusiveNonblock);
            let still_there = fstatat(&parent, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok();
            if let (Ok(directory), true) = (locked, still_there) {
                return Ok(Group { parent, name, directory, removed: false });
            }
        }
        Err(Errno::EAGAIN.into())
    }

    /// Moves a process, and with it what it will start, into the group.
    pub fn add(&self, pid: i32) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let procs = openat(&*self.directory, "cgroup.procs", flags, Mode::empty())?;
        nix::unistd::write(&procs, pid.to_string().as_bytes())?;
        Ok(())
    }

    /// Removes the group with those that were made in it. Its processes must have ended. A second call
    /// does nothing.
    pub fn remove(&mut self) -> io::Result<()> {
        if self.removed {
            return Ok(());
        }
        remove_tree(&self.parent, &self.name, Instant::now() + PATIENCE)?;
        self.removed = true;
        Ok(())
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.removed {
            // The last resort: one that is still in use stays, and the next of its kind removes it.
            let _ = remove_tree(&self.parent, &self.name, Instant::now());
        }
    }
}

/// The group that this process is in.
fn own_directory() -> io::Result<OwnedFd> {
    let mounts = mountinfo::at_or_below(Path::new("/"))?;
    let mounted: Vec<_> = mounts.into_iter().filter(|mount| mount.fs_type == "cgroup2").collect();
    if mounted.is_empty() {
        // Before that, a system that has v1 alone does not say where in v2 a process is.
        let top = mount()?;
        return directory(&top, &own_path()?);
    }
    let own = Path::new("/").join(own_path()?);
    for mount in mounted {
        if let Ok(below) = own.strip_prefix(&mount.root)
            && let Some(below) = below.to_str()
            && let Ok(found) = writable(&mount.point).and_then(|top| directory(&top, below))
        {
            return Ok(found);
        }
    }
    Err(io::Error::other(format!("no mount of cgroup v2 shows {}", own.display())))
}

/// Mounts the hierarchy where nobody sees it. Only where there is no mount of it: the options of the last
/// mount hold for all.
fn mount() -> io::Result<OwnedFd> {
    let context = fsopen(c"cgroup2", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// A copy of a mount that nobody sees, and that may be written to, as those of containers may not.
fn writable(point: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let copy = open_tree(rustix::fs::CWD, point, flags)?;
    super::namespace::make_writable(&copy)?;
    Ok(copy)
}

/// Where this process is, below that top, without a leading slash.
fn own_path() -> io::Result<String> {
    let groups = std::fs::read_to_string("/proc/self/cgroup")?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    match path {
        Some(path) if !path.split('/').any(|part| part == "..") => Ok(path.to_owned()),
        _ => Err(io::Error::other(format!("no place in the cgroup v2 hierarchy: {path:?}"))),
    }
}

fn directory(at: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { "." } else { path };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(at, path, flags, Mode::empty())?)
}

/// What cannot be removed is in use, or is tried again next time.
fn remove_stale(parent: &OwnedFd, prefix: &str) {
    for name in children(parent).unwrap_or_default() {
        if let Some(stale) =
            name.starts_with(prefix).then(|| directory(parent, &name).ok()).flatten()
            && let Ok(_lock) = Flock::lock(stale, FlockArg::LockExclusiveNonblock)
        {
            let _ = remove_tree(parent, &name, Instant::now());
        }
    }
}

/// A user who may mount may have made groups in it.
#[allow(clippy::disallowed_methods, reason = "in a call that blocks anyway")]
fn remove_tree(parent: impl AsFd, name: &str, deadline: Instant) -> io::Result<()> {
    let opened = match directory(&parent, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    for child in children(&opened)? {
        remove_tree(&opened, &child, deadline)?;
    }
    loop {
        match unlinkat(&parent, name, UnlinkatFlags::RemoveDir) {
            Err(Errno::EBUSY) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn children(group: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    // A copy of its own: reading moves the place in the directory.
    let mut listing = nix::dir::Dir::from_fd(directory(group, "")?)?;
    for entry in listing.iter() {
        let entry = entry?;
        let name: CString = entry.file_name().to_owned();
        let is_dir = entry.file_type() == Some(nix::dir::Type::Directory);
        if let (true, Ok(name)) = (is_dir, name.into_string())
            && name != "."
            && name != ".."
        {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each test has names of its own: they run at the same time.
    fn names(prefix: &str) -> Vec<String> {
        let parent = own_directory().unwrap();
        let mut names = children(&parent).unwrap();
        names.retain(|name| name.starts_with(prefix));
        names
    }

    #[test]
    fn what_a_killed_process_has_left_is_removed_by_the_next_and_what_lives_is_not() {
        let prefix = format!("ims-test-stale-{}-", std::process::id());
        let living = Group::make(&prefix).unwrap();
        let parent = own_directory().unwrap();
        let stale = format!("{prefix}stale");
        mkdirat(&parent, stale.as_str(), Mode::S_IRWXU).unwrap();
        let mut next = Group::make(&prefix).unwrap();
        let mut left = names(&prefix);
        left.sort();
        let mut wanted = vec![living.name.clone(), next.name.clone()];
        wanted.sort();
        assert_eq!(left, wanted);
        next.remove().unwrap();
        drop(living);
        assert_eq!(names(&prefix), [""; 0]);
    }

    #[test]
    fn a_process_in_it_holds_it_and_its_end_frees_it() {
        let prefix = format!("ims-test-held-{}-", std::process::id());
        let mut group = Group::make(&prefix).unwrap();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        group.add(child.id() as i32).unwrap();
        mkdirat(&group, "inner", Mode::S_IRWXU).unwrap();
        let held = remove_tree(&group.parent, &group.name, Instant::now());
        assert_eq!(held.unwrap_err().raw_os_error(), Some(libc::EBUSY));
        child.kill().unwrap();
        child.wait().unwrap();
        group.remove().unwrap();
        assert_eq!(names(&prefix), [""; 0]);
    }
}
