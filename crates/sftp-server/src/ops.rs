//! One function for each request that has a path or only needs a handle; reads and writes are in
//! `transfer`. Each returns the response packet.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, fchown, lchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::attrs::Attrs;
use super::codec::Packet;
use super::handles::{Handle, Handles, OpenDir, OpenFile};
use super::listing;
use super::names::Table;
use super::request::HandleName;
use super::status::Status;
use linux::Errno;
use linux::files::{self, OFlag};

// Kinds of answers (draft section 7).
const HANDLE: u8 = 102;
const NAME: u8 = 104;
const ATTRS: u8 = 105;

/// Entries in one answer to a readdir, as OpenSSH.
const ENTRIES: usize = 100;

/// A session's state, but for the transfers in flight.
pub(crate) struct Session {
    pub handles: Handles,
    pub users: Table,
    pub groups: Table,
    pub zone: TimeZone,
}

/// The bytes of a name as a path. Relative ones start at the working directory, the home.
pub(crate) fn path(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}

fn answer(id: u32, result: io::Result<Packet>) -> Packet {
    result.unwrap_or_else(|error| Status::of(&error).packet(id))
}

fn attrs(id: u32, metadata: io::Result<Metadata>) -> Packet {
    answer(id, metadata.map(|found| Attrs::of(&found).write(Packet::new(ATTRS).u32(id))))
}

/// One name and no attributes, as realpath and readlink are answered.
pub(crate) fn name(id: u32, name: &Path) -> Packet {
    let bytes = name.as_os_str().as_bytes();
    let packet = Packet::new(NAME).u32(id).u32(1).string(bytes).string(bytes);
    Attrs::default().write(packet)
}

pub(crate) fn stat(id: u32, path: &Path) -> Packet {
    attrs(id, fs::metadata(path))
}

pub(crate) fn lstat(id: u32, path: &Path) -> Packet {
    attrs(id, fs::symlink_metadata(path))
}

pub(crate) fn mkdir(path: &Path, attrs: &Attrs) -> Status {
    let mode = attrs.permissions.map_or(0o777, |mode| mode & 0o7777);
    fs::DirBuilder::new().mode(mode).create(path).into()
}

pub(crate) fn readlink(id: u32, path: &Path) -> Packet {
    answer(id, fs::read_link(path).map(|target| name(id, &target)))
}

pub(crate) fn realpath(id: u32, given: &Path) -> Packet {
    let given = if given.as_os_str().is_empty() { Path::new(".") } else { given };
    answer(id, resolve(given).map(|resolved| name(id, &resolved)))
}

/// The absolute path without links, as OpenSSH's server finds it: unlike with realpath(3) the last
/// component need not exist, and `..` takes a component away without asking whether it is a directory.
pub(crate) fn resolve(path: &Path) -> io::Result<PathBuf> {
    /// As OpenSSH (SYMLOOP_MAX): more links than that are a loop.
    const LINKS: usize = 32;
    let mut links = 0;
    let mut left = path.as_os_str().as_bytes().to_vec();
    let mut resolved = match left.first() {
        Some(b'/') => PathBuf::from("/"),
        _ => std::env::current_dir()?,
    };
    while !left.is_empty() {
        // `None`: nothing follows, not even a slash.
        let slash = left.iter().position(|&byte| byte == b'/');
        let rest = slash.map(|at| left[at + 1..].to_vec());
        left.truncate(slash.unwrap_or(left.len()));
        match left.as_slice() {
            b"" | b"." => {}
            b".." => drop(resolved.pop()),
            name => {
                resolved.push(self::path(name));
                match fs::symlink_metadata(&resolved) {
                    Ok(found) if found.is_symlink() => {
                        links += 1;
                        if links > LINKS {
                            return Err(Errno::ELOOP.into());
                        }
                        let target =
                            fs::read_link(&resolved)?.into_os_string().into_encoded_bytes();
                        resolved.pop();
                        if target.starts_with(b"/") {
                            resolved = PathBuf::from("/");
                        }
                        let rest = rest.map_or(Vec::new(), |rest| [b"/", &rest[..]].concat());
                        left = [target, rest].concat();
                        continue;
                    }
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound && rest.is_none() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        left = rest.unwrap_or_default();
    }
    Ok(resolved)
}

/// Version 3 renames onto nothing that exists; a hard link makes sure of it without a race.
pub(crate) fn rename(from: &Path, to: &Path) -> Status {
    let found = match fs::symlink_metadata(from) {
        Ok(found) => found,
        Err(error) => return Status::of(&error),
    };
    if found.is_file() {
        match fs::hard_link(from, to) {
            Ok(()) => {
                let removed = fs::remove_file(from);
                if removed.is_err() {
                    // The spare link; if that fails too, the first error is reported.
                    let _ = fs::remove_file(to);
                }
                return removed.into();
            }
            Err(error) if !no_hard_links(&error) => return Status::of(&error),
            Err(_) => {}
        }
    }
    match fs::metadata(to) {
        Ok(_) => Status::Failure,
        Err(_) => fs::rename(from, to).into(),
    }
}

fn no_hard_links(error: &io::Error) -> bool {
    use Errno::{EMLINK, ENOSYS, EPERM, EXDEV};
    matches!(linux::errno_of(error), Some(Errno::EOPNOTSUPP | ENOSYS | EXDEV | EMLINK | EPERM))
}

/// Sets the given attributes, in OpenSSH's order; the last failure is reported.
fn set_each(steps: [Option<io::Result<()>>; 4]) -> Status {
    let failed = steps.into_iter().flatten().filter_map(Result::err).last();
    failed.map_or(Status::Ok, |error| Status::of(&error))
}

pub(crate) fn setstat(path: &Path, attrs: &Attrs) -> Status {
    let permissions = |mode| fs::Permissions::from_mode(mode & 0o7777);
    set_each([
        attrs.size.map(|size| files::truncate(path, size)),
        attrs.permissions.map(|mode| fs::set_permissions(path, permissions(mode))),
        attrs.times.map(|times| files::set_times(path, times, true)),
        attrs.owner.map(|(user, group)| chown(path, Some(user), Some(group))),
    ])
}

/// Of a link itself; a size is nonsense there.
pub(crate) fn lsetstat(path: &Path, attrs: &Attrs) -> Status {
    if attrs.size.is_some() {
        return Status::BadMessage;
    }
    set_each([
        None,
        attrs.permissions.map(|mode| files::set_mode_of_link(path, mode & 0o7777)),
        attrs.times.map(|times| files::set_times(path, times, false)),
        attrs.owner.map(|(user, group)| lchown(path, Some(user), Some(group))),
    ])
}

fn flags(asked: u32) -> OFlag {
    const READ: u32 = 1;
    const WRITE: u32 = 2;
    const BOTH: u32 = READ | WRITE;
    let mut flags = match asked & BOTH {
        BOTH => OFlag::O_RDWR,
        WRITE => OFlag::O_WRONLY,
        _ => OFlag::O_RDONLY,
    };
    for (bit, flag) in
        [(4, OFlag::O_APPEND), (8, OFlag::O_CREAT), (16, OFlag::O_TRUNC), (32, OFlag::O_EXCL)]
    {
        flags.set(flag, asked & bit != 0);
    }
    flags
}

impl Session {
    pub(crate) fn open(&mut self, id: u32, path: &Path, asked: u32, attrs: &Attrs) -> Packet {
        let flags = flags(asked);
        let opened = files::open(path, flags, attrs.permissions.unwrap_or(0o666) & 0o7777);
        let file = opened.and_then(|file| {
            let found = file.metadata()?;
            let append = flags.contains(OFlag::O_APPEND);
            Ok(OpenFile { file, append, identity: (found.dev(), found.ino()) })
        });
        self.give(id, file.map(|file| Handle::File(Arc::new(file))))
    }

    pub(crate) fn opendir(&mut self, id: u32, path: &Path) -> Packet {
        let dir = fs::read_dir(path)
            .map(|entries| Handle::Dir(OpenDir { path: path.to_owned(), dots: 0, entries }));
        self.give(id, dir)
    }

    fn give(&mut self, id: u32, handle: io::Result<Handle>) -> Packet {
        match handle.map(|handle| self.handles.insert(handle)) {
            Ok(Some(number)) => Packet::new(HANDLE).u32(id).string(&number.to_be_bytes()),
            Ok(None) => Status::Failure.packet(id),
            Err(error) => Status::of(&error).packet(id),
        }
    }

    pub(crate) fn close(&mut self, handle: HandleName) -> Status {
        match self.handles.remove(handle) {
            Some(_) => Status::Ok,
            None => Status::NoSuchFile,
        }
    }

    pub(crate) fn fstat(&mut self, id: u32, handle: HandleName) -> Packet {
        match self.handles.file(handle) {
            Some(open) => attrs(id, open.file.metadata()),
            None => Status::Failure.packet(id),
        }
    }

    pub(crate) fn fsetstat(&mut self, handle: HandleName, attrs: &Attrs) -> Status {
        let Some(open) = self.handles.file(handle) else { return Status::Failure };
        let file = &open.file;
        let permissions = |mode| fs::Permissions::from_mode(mode & 0o7777);
        set_each([
            attrs.size.map(|size| file.set_len(size)),
            attrs.permissions.map(|mode| file.set_permissions(permissions(mode))),
            attrs.times.map(|times| files::set_times_of(file, times)),
            attrs.owner.map(|(user, group)| fchown(file, Some(user), Some(group))),
        ])
    }

    pub(crate) fn readdir(&mut self, id: u32, handle: HandleName) -> Packet {
        let Some(dir) = self.handles.dir(handle) else { return Status::Failure.packet(id) };
        let mut found = Vec::new();
        while found.len() < ENTRIES {
            match next_entry(dir) {
                Some((name, Ok(metadata))) => found.push((name, metadata)),
                // Gone since the directory was read.
                Some((_, Err(_))) => {}
                None => break,
            }
        }
        if found.is_empty() {
            return Status::Eof.packet(id);
        }
        let size = found.len() * 160;
        let mut packet = Packet::with_capacity(NAME, size).u32(id).u32(found.len() as u32);
        for (name, metadata) in found {
            let (users, groups) = (&mut self.users, &mut self.groups);
            let line = listing::line(&name, &metadata, users, groups, &self.zone);
            packet = Attrs::of(&metadata).write(packet.string(&name).string(&line));
        }
        packet
    }
}

/// The next name of a directory and what is there.
fn next_entry(dir: &mut OpenDir) -> Option<(Vec<u8>, io::Result<Metadata>)> {
    if let Some(dots) = [".", ".."].get(usize::from(dir.dots)) {
        dir.dots += 1;
        return Some((dots.as_bytes().to_vec(), fs::symlink_metadata(dir.path.join(dots))));
    }
    // An error while reading is the end, as it is for readdir(3)'s callers.
    let entry = dir.entries.next()?.ok()?;
    Some((entry.file_name().as_bytes().to_vec(), entry.metadata()))
}
