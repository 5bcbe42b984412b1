//! Requests of a client: one packet as one value. Pure; the fuzzer's target.

use bytes::Bytes;

use super::attrs::Attrs;
use super::codec::{Fields, Malformed};

/// A handle as a client names it; `None` if it is not of the form we give out.
pub type HandleName = Option<u32>;

/// Draft section 6, and OpenSSH's extensions (its file PROTOCOL, section 4).
#[allow(missing_docs, reason = "they are the protocol's")]
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    Open {
        path: Bytes,
        flags: u32,
        attrs: Attrs,
    },
    Close(HandleName),
    Read {
        handle: HandleName,
        offset: u64,
        length: u32,
    },
    Write {
        handle: HandleName,
        offset: u64,
        data: Bytes,
    },
    Lstat(Bytes),
    Fstat(HandleName),
    Setstat(Bytes, Attrs),
    Fsetstat(HandleName, Attrs),
    Opendir(Bytes),
    Readdir(HandleName),
    Remove(Bytes),
    Mkdir(Bytes, Attrs),
    Rmdir(Bytes),
    Realpath(Bytes),
    Stat(Bytes),
    Rename {
        from: Bytes,
        to: Bytes,
    },
    Readlink(Bytes),
    /// The target comes first on the wire, as OpenSSH sends it, against the draft.
    Symlink {
        target: Bytes,
        link: Bytes,
    },
    PosixRename {
        from: Bytes,
        to: Bytes,
    },
    Statvfs(Bytes),
    Fstatvfs(HandleName),
    Hardlink {
        from: Bytes,
        to: Bytes,
    },
    Fsync(HandleName),
    Lsetstat(Bytes, Attrs),
    Limits,
    ExpandPath(Bytes),
    CopyData {
        from: HandleName,
        offset: u64,
        length: u64,
        to: HandleName,
        to_offset: u64,
    },
    HomeDirectory(Bytes),
    /// Lists of 32-bit ids, one after the other.
    UsersGroupsById {
        users: Bytes,
        groups: Bytes,
    },
    /// Something we do not know.
    Unknown,
}

/// Names and versions of the extensions, as sent in the version packet.
pub const EXTENSIONS: &[(&str, &str)] = &[
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
    ("copy-data", "1"),
    ("home-directory", "1"),
    ("users-groups-by-id@openssh.com", "1"),
];

/// A whole packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// The client's first: the highest version it speaks.
    Init {
        /// OpenSSH's clients speak 3.
        version: u32,
    },
    /// Something to be answered.
    Request {
        /// The number that the answer has.
        id: u32,
        /// What is asked.
        request: Request,
    },
    /// A request whose body does not parse, but which can be answered.
    Malformed {
        /// The number that the answer has.
        id: u32,
    },
}

const INIT: u8 = 1;
const EXTENDED: u8 = 200;

/// Fails only where there is no number to answer to.
pub fn parse(packet: Bytes) -> Result<Message, Malformed> {
    let mut fields = Fields::new(packet);
    let kind = fields.byte()?;
    if kind == INIT {
        return Ok(Message::Init { version: fields.u32()? });
    }
    let id = fields.u32()?;
    let request = match kind {
        EXTENDED => extended(&mut fields),
        kind => standard(kind, &mut fields),
    };
    Ok(match request {
        Ok(request) => Message::Request { id, request },
        Err(Malformed) => Message::Malformed { id },
    })
}

fn handle(fields: &mut Fields) -> Result<HandleName, Malformed> {
    Ok(fields.string()?.as_ref().try_into().ok().map(u32::from_be_bytes))
}

fn standard(kind: u8, fields: &mut Fields) -> Result<Request, Malformed> {
    Ok(match kind {
        3 => Request::Open {
            path: fields.string()?,
            flags: fields.u32()?,
            attrs: Attrs::read(fields)?,
        },
        4 => Request::Close(handle(fields)?),
        5 => {
            Request::Read { handle: handle(fields)?, offset: fields.u64()?, length: fields.u32()? }
        }
        6 => Request::Write {
            handle: handle(fields)?,
            offset: fields.u64()?,
            data: fields.string()?,
        },
        7 => Request::Lstat(fields.string()?),
        8 => Request::Fstat(handle(fields)?),
        9 => Request::Setstat(fields.string()?, Attrs::read(fields)?),
        10 => Request::Fsetstat(handle(fields)?, Attrs::read(fields)?),
        11 => Request::Opendir(fields.string()?),
        12 => Request::Readdir(handle(fields)?),
        13 => Request::Remove(fields.string()?),
        14 => Request::Mkdir(fields.string()?, Attrs::read(fields)?),
        15 => Request::Rmdir(fields.string()?),
        16 => Request::Realpath(fields.string()?),
        17 => Request::Stat(fields.string()?),
        18 => Request::Rename { from: fields.string()?, to: fields.string()? },
        19 => Request::Readlink(fields.string()?),
        20 => Request::Symlink { target: fields.string()?, link: fields.string()? },
        _ => Request::Unknown,
    })
}

fn extended(fields: &mut Fields) -> Result<Request, Malformed> {
    let name = fields.string()?;
    Ok(match name.as_ref() {
        b"posix-rename@openssh.com" => {
            Request::PosixRename { from: fields.string()?, to: fields.string()? }
        }
        b"statvfs@openssh.com" => Request::Statvfs(fields.string()?),
        b"fstatvfs@openssh.com" => Request::Fstatvfs(handle(fields)?),
        b"hardlink@openssh.com" => {
            Request::Hardlink { from: fields.string()?, to: fields.string()? }
        }
        b"fsync@openssh.com" => Request::Fsync(handle(fields)?),
        b"lsetstat@openssh.com" => Request::Lsetstat(fields.string()?, Attrs::read(fields)?),
        b"limits@openssh.com" => Request::Limits,
        b"expand-path@openssh.com" => Request::ExpandPath(fields.string()?),
        b"copy-data" => Request::CopyData {
            from: handle(fields)?,
            offset: fields.u64()?,
            length: fields.u64()?,
            to: handle(fields)?,
            to_offset: fields.u64()?,
        },
        b"home-directory" => Request::HomeDirectory(fields.string()?),
        b"users-groups-by-id@openssh.com" => {
            Request::UsersGroupsById { users: fields.string()?, groups: fields.string()? }
        }
        _ => Request::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_target_of_a_link_comes_first() {
        let bytes = super::super::codec::Packet::new(20).u32(7).string(b"to").string(b"at");
        let request = Request::Symlink { target: "to".into(), link: "at".into() };
        let parsed = parse(Bytes::from(bytes.finish()).slice(4..));
        assert_eq!(parsed, Ok(Message::Request { id: 7, request }));
    }

    #[test]
    fn a_request_cut_short_can_be_answered_if_it_has_a_number() {
        let whole = b"\x06\0\0\0\x09\0\0\0\x04hand\0\0\0\0\0\0\0\0\0\0\0\x01x";
        for length in 5..whole.len() {
            let cut = Bytes::from_static(&whole[..length]);
            assert_eq!(parse(cut), Ok(Message::Malformed { id: 9 }), "{length}");
        }
        for length in 0..5 {
            assert_eq!(parse(Bytes::from_static(&whole[..length])), Err(Malformed));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..=201) {
            let _ = parse(Bytes::from(bytes.clone()));
            let _ = parse(Bytes::from([&[kind], &bytes[..]].concat()));
        }
    }
}
