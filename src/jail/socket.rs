//! Sockets for forwarding, opened by a process inside the jail: it has the same paths and the same
//! network restrictions as a session.
//!
//! `perform` is that process; `ssh` starts it through the methods of `Jail`.

use std::fs::DirBuilder;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::wire::{self, Bytes, ChildProgram, Fault, Made, Request, SocketTask};
use super::{Error, Jail};
use linux::exec::Stdio;
use linux::{Errno, passed, tcp, unix};

/// What the process wrote before it ended has already arrived.
const ANSWER: Duration = Duration::from_secs(5);

/// Where the directory of an agent's socket is created: the first disappears with the jail's
/// namespace.
const AGENT_PLACES: [&str; 2] = ["/run", "/tmp"];

/// Where a listening socket is in the jail; see [`Jail::remove`].
#[derive(Debug)]
pub struct SocketFile {
    /// As sessions see it.
    pub path: PathBuf,
    made: Made,
}

impl Jail {
    /// Connects to the socket that sessions see at `path`, an absolute one. Blocks briefly; the
    /// stream does not.
    pub fn connect(&self, path: &Path) -> Result<UnixStream, Error> {
        let path = Bytes::of(path.as_os_str());
        let (connected, _) = self.on_socket(SocketTask::Connect { path })?;
        let connected = connected.ok_or(Error::Gone)?;
        passed::unix_stream(connected).map_err(refused("take over a connection"))
    }

    /// Listens at `path`, an absolute one, which must not exist. Blocks briefly; the
    /// listener does not.
    pub fn listen(&self, path: &Path) -> Result<(UnixListener, SocketFile), Error> {
        self.listening(SocketTask::Listen { path: Bytes::of(path.as_os_str()) })
    }

    /// Listens in a directory that is created for it: for a session's `SSH_AUTH_SOCK`. Blocks briefly.
    pub fn listen_for_agent(&self) -> Result<(UnixListener, SocketFile), Error> {
        self.listening(SocketTask::ListenForAgent)
    }

    /// Takes away what `listen` has made, unless sessions have put something else there. Blocks
    /// briefly.
    pub fn remove(&self, file: &SocketFile) -> Result<(), Error> {
        self.on_socket(SocketTask::Remove(file.made.clone())).map(drop)
    }

    /// Begins to connect as a session would. Blocks briefly; the stream does not.
    pub fn connect_tcp(&self, address: SocketAddr) -> Result<TcpStream, Error> {
        let (connecting, _) = self.on_socket(SocketTask::ConnectTcp { address })?;
        let connecting = connecting.ok_or(Error::Gone)?;
        passed::tcp_stream(connecting).map_err(refused("take over a connection"))
    }

    /// Listens as a session would. Blocks briefly; the listener does not.
    pub fn listen_tcp(&self, address: SocketAddr) -> Result<TcpListener, Error> {
        let (listener, _) = self.on_socket(SocketTask::ListenTcp { address })?;
        let listener = listener.ok_or(Error::Gone)?;
        passed::tcp_listener(listener).map_err(refused("take over a socket"))
    }

    fn listening(&self, task: SocketTask) -> Result<(UnixListener, SocketFile), Error> {
        let (Some(listener), Some(made)) = self.on_socket(task)? else { return Err(Error::Gone) };
        let listener = passed::unix_listener(listener).map_err(refused("take over a socket"))?;
        let path = made.path.clone().into_path();
        Ok((listener, SocketFile { path, made }))
    }

    fn on_socket(&self, task: SocketTask) -> Result<(Option<OwnedFd>, Option<Made>), Error> {
        let start = |source| Error::Start { source };
        let (ours, theirs) = UnixStream::pair().map_err(start)?;
        let null = std::fs::File::options().write(true).open("/dev/null").map_err(start)?;
        let (program, env, home) = (ChildProgram::Socket(task), Vec::new(), Bytes::default());
        let fds = [theirs.as_fd(), null.as_fd(), null.as_fd()];
        let request = |id| {
            let (program, env, home) = (program.clone(), env.clone(), home.clone());
            Request::Spawn { id, program, env, home }
        };
        self.ask(request, &fds)?;
        drop(theirs);
        ours.set_read_timeout(Some(ANSWER)).map_err(start)?;
        let answer = wire::receive::<Option<Made>>(&ours).map_err(start)?;
        let (made, mut fds) = answer.ok_or(Error::Gone)?;
        Ok((fds.pop(), made))
    }
}

fn refused(what: &str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Refused { what: what.into(), source }
}

/// Does the task and sends the outcome through stdin.
pub(super) fn perform(task: SocketTask, stdio: Stdio) -> Result<(), Fault> {
    let fault = |what: &'static str| move |error: io::Error| Fault::new(what, &error);
    let (socket, made) = match task {
        SocketTask::Connect { path } => {
            (Some(unix::connect_now(&path.into_path()).map_err(fault("connect"))?), None)
        }
        SocketTask::Listen { path } => {
            listen(path.into_path(), false).map_err(fault("make a socket"))?
        }
        SocketTask::ListenForAgent => {
            let place = agent_directory().map_err(fault("make a directory for a socket"))?;
            let path = place.join(format!("agent.{}", std::process::id()));
            listen(path, true).map_err(fault("make a socket"))?
        }
        SocketTask::ConnectTcp { address } => {
            (Some(tcp::begin_to_connect(address).map_err(fault("connect"))?), None)
        }
        SocketTask::ListenTcp { address } => {
            let listener = TcpListener::bind(address).map_err(fault("listen"))?;
            (Some(listener.into()), None)
        }
        SocketTask::Remove(made) => {
            remove(&made).map_err(fault("remove a socket"))?;
            (None, None)
        }
    };
    let Stdio::Pipes { stdin, .. } = stdio else {
        return Err(Fault::of("answer", Errno::EBADF));
    };
    let fds: Vec<_> = socket.iter().map(AsFd::as_fd).collect();
    wire::send(&stdin.into(), &made, &fds).map_err(fault("answer"))
}

fn listen(path: PathBuf, directory: bool) -> io::Result<(Option<OwnedFd>, Option<Made>)> {
    let socket = unix::listen(&path)?;
    let found = std::fs::symlink_metadata(&path)?;
    let path = Bytes::of(path.as_os_str());
    let made = Made { path, device: found.dev(), inode: found.ino(), directory };
    Ok((Some(socket), Some(made)))
}

fn agent_directory() -> io::Result<PathBuf> {
    let mut result = Err(io::ErrorKind::NotFound.into());
    for place in AGENT_PLACES {
        // Not to be guessed, as sshd's; a name that is taken is an error of mkdir(2).
        let path = Path::new(place).join(format!("ssh-{:010x}", rand::random::<u64>() >> 24));
        result = DirBuilder::new().mode(0o700).create(&path).map(|()| path);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn remove(made: &Made) -> io::Result<()> {
    let path = made.path.clone().into_path();
    match std::fs::symlink_metadata(&path) {
        Ok(found) if (found.dev(), found.ino()) == (made.device, made.inode) => {
            std::fs::remove_file(&path)?;
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // Removed by the user, or another one's by now.
        _ => return Ok(()),
    }
    match path.parent() {
        Some(directory) if made.directory => std::fs::remove_dir(directory),
        _ => Ok(()),
    }
}
