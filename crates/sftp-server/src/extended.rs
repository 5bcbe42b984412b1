//! OpenSSH's extensions to protocol 3 (its file PROTOCOL, section 4). One function per extension.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::codec::{Fields, MAX_DATA, MAX_PACKET, Malformed, Packet};
use super::names::Table;
use super::ops::{self, Session};
use super::request::{EXTENSIONS, HandleName};
use super::status::Status;
use linux::disk::Figures;

const VERSION: u8 = 2;
const EXTENDED_REPLY: u8 = 201;

/// The answer to the client's first packet: version 3 and what we add to it.
pub(crate) fn version() -> Packet {
    EXTENSIONS.iter().fold(Packet::new(VERSION).u32(3), |packet, (name, version)| {
        packet.string(name.as_bytes()).string(version.as_bytes())
    })
}

pub(crate) fn limits(id: u32, handles: usize) -> Packet {
    let data = MAX_DATA as u64;
    let packet = Packet::new(EXTENDED_REPLY).u32(id).u64(MAX_PACKET as u64);
    packet.u64(data).u64(data).u64(handles as u64)
}

pub(crate) fn statvfs(id: u32, figures: io::Result<Figures>) -> Packet {
    let figures = match figures {
        Ok(figures) => figures,
        Err(error) => return Status::of(&error).packet(id),
    };
    let flags = u64::from(figures.read_only) | u64::from(figures.no_setuid) << 1;
    [
        figures.block_size,
        figures.fragment_size,
        figures.blocks,
        figures.blocks_free,
        figures.blocks_available,
        figures.files,
        figures.files_free,
        figures.files_available,
        figures.id,
        flags,
        figures.name_max,
    ]
    .into_iter()
    .fold(Packet::new(EXTENDED_REPLY).u32(id), Packet::u64)
}

/// `~`, `~/x`, `~user`, `~user/x` and relative paths, made absolute.
///
/// One's own home is the working directory, as OpenSSH takes it: also where the home is missing.
pub(crate) fn expand_path(session: &mut Session, id: u32, given: &[u8]) -> Packet {
    match expand(&mut session.users, given) {
        Some(path) => ops::realpath(id, &path),
        None => Status::NoSuchFile.saying(id, "no such user"),
    }
}

fn expand(users: &mut Table, given: &[u8]) -> Option<PathBuf> {
    let Some(rest) = given.strip_prefix(b"~") else { return Some(ops::path(given).to_owned()) };
    let end = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
    let (user, below) = rest.split_at(end);
    let home = match user {
        b"" => Some(PathBuf::from(".")),
        user => users.home_of(user),
    }?;
    let below = ops::path(below.strip_prefix(b"/").unwrap_or(below));
    Some(if below.as_os_str().is_empty() { home } else { home.join(below) })
}

pub(crate) fn home_directory(session: &mut Session, id: u32, user: &[u8]) -> Packet {
    let home = match user {
        b"" => session.users.home_of_id(0),
        user => session.users.home_of(user),
    };
    match home {
        Some(home) => ops::name(id, &home),
        None => Status::Failure.packet(id),
    }
}

/// Both lists answered name by name, empty for an id that has none.
pub(crate) fn users_groups(
    session: &mut Session,
    id: u32,
    users: Fields,
    groups: Fields,
) -> Packet {
    let names = |table: &mut Table, mut ids: Fields| -> Result<Vec<u8>, Malformed> {
        let mut names = Vec::new();
        while !ids.is_empty() {
            let name = table.name(ids.u32()?).unwrap_or_default();
            names.extend_from_slice(&(name.len() as u32).to_be_bytes());
            names.extend_from_slice(name);
        }
        Ok(names)
    };
    match (names(&mut session.users, users), names(&mut session.groups, groups)) {
        (Ok(users), Ok(groups)) => {
            Packet::new(EXTENDED_REPLY).u32(id).string(&users).string(&groups)
        }
        _ => Status::BadMessage.packet(id),
    }
}

pub(crate) fn fsync(session: &Session, handle: HandleName) -> Status {
    match session.handles.file(handle) {
        Some(open) => open.file.sync_all().into(),
        None => Status::NoSuchFile,
    }
}

pub(crate) fn fstatvfs(session: &Session, id: u32, handle: HandleName) -> Packet {
    match session.handles.file(handle) {
        Some(open) => statvfs(id, Figures::of_file(&open.file)),
        None => Status::Failure.packet(id),
    }
}

/// What to copy, and where to.
pub(crate) struct Copy {
    pub offset: u64,
    /// 0: all that there is.
    pub length: u64,
    pub to_offset: u64,
}

/// Copies inside the server; not within one file, where both ends might overlap.
pub(crate) fn copy_data(
    session: &Session,
    from: HandleName,
    to: HandleName,
    copy: &Copy,
) -> Status {
    let (Some(from), Some(to)) = (session.handles.file(from), session.handles.file(to)) else {
        return Status::Failure;
    };
    if from.identity == to.identity {
        return Status::Failure;
    }
    copy_range(&from.file, &to.file, copy).into()
}

/// Less than requested, if the source ends before, is not an error.
fn copy_range(from: &File, to: &File, copy: &Copy) -> io::Result<()> {
    let mut chunk = vec![0; MAX_DATA];
    let (mut read_at, mut write_at) = (copy.offset, copy.to_offset);
    let mut left = if copy.length == 0 { u64::MAX } else { copy.length };
    while left > 0 {
        let most = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = from.read_at(&mut chunk[..most], read_at)?;
        if count == 0 {
            break;
        }
        to.write_all_at(&chunk[..count], write_at)?;
        read_at += count as u64;
        write_at += count as u64;
        left -= count as u64;
    }
    Ok(())
}

/// Hard links the file itself where `from` is a link, as link(2) does.
pub(crate) fn hardlink(from: &Path, to: &Path) -> Status {
    std::fs::hard_link(from, to).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn tildes_are_homes() {
        let mut users = Table::users();
        let root = users.home_of(b"root").unwrap();
        assert_eq!(expand(&mut users, b"~").unwrap(), Path::new("."));
        assert_eq!(expand(&mut users, b"~/x").unwrap(), Path::new("./x"));
        assert_eq!(expand(&mut users, b"~root/x/y").unwrap(), root.join("x/y"));
        assert_eq!(expand(&mut users, b"~no-such-user"), None);
        assert_eq!(expand(&mut users, b"a/~").unwrap().as_os_str().as_bytes(), b"a/~");
    }
}
