//! The server's loop: reads packets, runs their operations, writes responses.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use bytes::Bytes;
use jiff::tz::TimeZone;

use super::codec::{Fields, MAX_PACKET, Packet};
use super::extended::{self, Copy};
use super::handles::Handles;
use super::names::Table;
use super::ops::{self, Session, path};
use super::request::{Message, Request, parse};
use super::status::Status;
use super::transfer::{Kind, Output, Transfer, Transfers};
use linux::disk::Figures;
use linux::files;

/// Why a session ended before its client did.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("cannot read from the client")]
    Input(#[from] io::Error),
    #[error("a packet of {0} bytes, the maximum is {MAX_PACKET}")]
    Oversize(usize),
    #[error("a packet without a usable request id")]
    Malformed,
    #[error("a request before the version exchange")]
    NotGreeted,
}

/// Most handles of a session, unless the process may have fewer descriptors.
const MAX_HANDLES: u64 = 4096;

/// Serves one client until its end of the input.
pub(crate) fn serve(input: File, output: File) -> Result<(), Ended> {
    let output = Arc::new(Output::new(output));
    let most = files::descriptor_limit().saturating_sub(5).clamp(16, MAX_HANDLES) as usize;
    let session = Session {
        handles: Handles::new(most),
        users: Table::users(),
        groups: Table::groups(),
        zone: TimeZone::system(),
    };
    let transfers = Transfers::start(output.clone())?;
    let mut server = Server { session, transfers, output, most };
    // Large enough for many small requests; the body of a large one goes past it.
    let mut input = BufReader::with_capacity(64 * 1024, input);
    let mut greeted = false;
    while let Some(packet) = next_packet(&mut input)? {
        match parse(packet).map_err(|_| Ended::Malformed)? {
            Message::Init { version: _ } => {
                greeted = true;
                server.output.send(extended::version());
            }
            _ if !greeted => return Err(Ended::NotGreeted),
            Message::Malformed { id } => server.output.send(Status::BadMessage.packet(id)),
            Message::Request { id, request } => server.take(id, request),
        }
    }
    server.transfers.drain();
    Ok(())
}

fn next_packet(input: &mut impl Read) -> Result<Option<Bytes>, Ended> {
    let mut length = [0; 4];
    match input.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_PACKET {
        return Err(Ended::Oversize(length));
    }
    let mut packet = Vec::with_capacity(length);
    input.take(length as u64).read_to_end(&mut packet)?;
    if packet.len() < length {
        return Ok(None);
    }
    Ok(Some(packet.into()))
}

struct Server {
    session: Session,
    transfers: Transfers,
    output: Arc<Output>,
    most: usize,
}

impl Server {
    /// Reads and writes go to the threads; all else is done here, after them.
    fn take(&mut self, id: u32, request: Request) {
        let (handle, offset, kind) = match request {
            Request::Read { handle, offset, length } => (handle, offset, Kind::Read(length)),
            Request::Write { handle, offset, data } => (handle, offset, Kind::Write(data)),
            other => {
                self.transfers.drain();
                let answer = self.answer(id, other);
                return self.output.send(answer);
            }
        };
        match self.session.handles.file(handle) {
            Some(file) => {
                let file = file.clone();
                self.transfers.begin(Transfer { id, file, offset, kind });
            }
            None => self.output.send(Status::Failure.packet(id)),
        }
    }

    fn answer(&mut self, id: u32, request: Request) -> Packet {
        let session = &mut self.session;
        let status = match request {
            Request::Open { path: name, flags, attrs } => {
                return session.open(id, path(&name), flags, &attrs);
            }
            Request::Lstat(name) => return ops::lstat(id, path(&name)),
            Request::Fstat(handle) => return session.fstat(id, handle),
            Request::Opendir(name) => return session.opendir(id, path(&name)),
            Request::Readdir(handle) => return session.readdir(id, handle),
            Request::Realpath(name) => return ops::realpath(id, path(&name)),
            Request::Stat(name) => return ops::stat(id, path(&name)),
            Request::Readlink(name) => return ops::readlink(id, path(&name)),
            Request::Close(handle) => session.close(handle),
            Request::Setstat(name, attrs) => ops::setstat(path(&name), &attrs),
            Request::Fsetstat(handle, attrs) => session.fsetstat(handle, &attrs),
            Request::Remove(name) => std::fs::remove_file(path(&name)).into(),
            Request::Mkdir(name, attrs) => ops::mkdir(path(&name), &attrs),
            Request::Rmdir(name) => std::fs::remove_dir(path(&name)).into(),
            Request::Rename { from, to } => ops::rename(path(&from), path(&to)),
            Request::Symlink { target, link } => {
                std::os::unix::fs::symlink(path(&target), path(&link)).into()
            }
            other => return self.answer_extended(id, other),
        };
        status.packet(id)
    }

    fn answer_extended(&mut self, id: u32, request: Request) -> Packet {
        let session = &mut self.session;
        let status = match request {
            Request::Statvfs(name) => {
                return extended::statvfs(id, Figures::of(path(&name)));
            }
            Request::Fstatvfs(handle) => return extended::fstatvfs(session, id, handle),
            Request::Limits => return extended::limits(id, self.most),
            Request::ExpandPath(name) => return extended::expand_path(session, id, &name),
            Request::HomeDirectory(user) => return extended::home_directory(session, id, &user),
            Request::UsersGroupsById { users, groups } => {
                let (users, groups) = (Fields::new(users), Fields::new(groups));
                return extended::users_groups(session, id, users, groups);
            }
            Request::PosixRename { from, to } => std::fs::rename(path(&from), path(&to)).into(),
            Request::Hardlink { from, to } => extended::hardlink(path(&from), path(&to)),
            Request::Fsync(handle) => extended::fsync(session, handle),
            Request::Lsetstat(name, attrs) => ops::lsetstat(path(&name), &attrs),
            Request::CopyData { from, offset, length, to, to_offset } => {
                extended::copy_data(session, from, to, &Copy { offset, length, to_offset })
            }
            _ => Status::OpUnsupported,
        };
        status.packet(id)
    }
}
