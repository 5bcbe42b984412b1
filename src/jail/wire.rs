//! The messages between agent and init: JSON bodies of the frames of `linux::fdpass`.
//!
//! The agent does not trust init, which runs among the sessions' processes.

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::plan::{Shape, Step};
use linux::Errno;
use linux::capability::CapSet;
use linux::fdpass;
use linux::seccomp::Level;

/// Bytes that need not be text (names, commands): base64 in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    pub fn of(text: &OsStr) -> Bytes {
        Bytes(text.as_bytes().to_vec())
    }

    pub fn into_os(self) -> OsString {
        OsString::from_vec(self.0)
    }

    pub fn into_path(self) -> PathBuf {
        self.into_os().into()
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text).map(Bytes).map_err(serde::de::Error::custom)
    }
}

/// The first frame: what init is to set up.
#[derive(Debug, Serialize, Deserialize)]
pub struct Setup {
    pub shape: Shape,
    pub root: Option<PathBuf>,
    pub steps: Vec<Step>,
    pub hide: Vec<PathBuf>,
    pub keep: CapSet,
    pub level: Level,
    /// The process is in a control group that it must not leave.
    pub own_group: bool,
}

/// What a session's process becomes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ChildProgram {
    Exec {
        path: Bytes,
        argv: Vec<Bytes>,
    },
    Sftp,
    /// Does this with a socket, sends what came of it through its stdin, and ends.
    Socket(SocketTask),
}

/// Paths are as the session sees them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum SocketTask {
    /// Answered by the socket.
    Connect { path: Bytes },
    /// Answered by the socket and a `Made`.
    Listen { path: Bytes },
    /// The same, in a new directory of its own: for the client's ssh-agent.
    ListenForAgent,
    /// Removes a socket that one of the two has made, if it is still there.
    Remove(Made),
    /// Answered by a TCP socket that connects to there.
    ConnectTcp { address: SocketAddr },
    /// Answered by a listening TCP socket.
    ListenTcp { address: SocketAddr },
}

/// A socket that was created, so that nothing else is removed in its place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Made {
    pub path: Bytes,
    pub device: u64,
    pub inode: u64,
    /// So was the directory that it is in.
    pub directory: bool,
}

/// Agent to init. Descriptors with `Spawn`: the terminal, or stdin, stdout and stderr.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    Spawn {
        id: u64,
        program: ChildProgram,
        env: Vec<(Bytes, Bytes)>,
        home: Bytes,
    },
    /// To the process group of a session's first process, as long as it is not reaped.
    Signal {
        id: u64,
        signal: i32,
    },
    /// Answered with a new master and slave.
    OpenPty {
        id: u64,
    },
    /// Answered at once.
    Ping,
}

/// Something that failed inside: what was tried, and the error number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    pub what: String,
    pub errno: i32,
}

impl Fault {
    pub fn new(what: impl Into<String>, error: &io::Error) -> Fault {
        Fault::of(what, linux::errno_of(error).unwrap_or(Errno::EIO))
    }

    pub fn of(what: impl Into<String>, errno: Errno) -> Fault {
        Fault { what: what.into(), errno: errno as i32 }
    }

    pub fn source(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }
}

/// Init to agent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    /// Set up; `notes` list what was not possible. With a pid namespace comes the number of its
    /// first process, as init counts, and with its mount namespace the mountinfo file of that.
    Ready {
        notes: Vec<String>,
        first: Option<i32>,
    },
    /// Not set up.
    Failed(Fault),
    /// The program runs.
    Started {
        id: u64,
    },
    Refused {
        id: u64,
        fault: Fault,
    },
    /// `status` as wait(2) gives it.
    Exited {
        id: u64,
        status: i32,
    },
    Pty {
        id: u64,
    },
    Pong,
}

pub fn send<T: Serialize>(
    socket: &UnixStream,
    message: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(message).map_err(io::Error::other)?;
    fdpass::send(socket, &body, fds)
}

/// `None` at the end of the stream.
pub fn receive<T: DeserializeOwned>(socket: &UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let Some((body, fds)) = fdpass::receive(socket)? else { return Ok(None) };
    let message = serde_json::from_slice(&body)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some((message, fds)))
}
