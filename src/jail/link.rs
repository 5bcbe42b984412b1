//! The agent's side of the socket to a running init: requests out, replies and exits in.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::oneshot;

use super::Error;
use super::mounts::Mounts;
use super::plan::{Plan, Shape};
use super::wire::{self, Event, Fault, Request, Setup};
use crate::os::hardening;
use crate::os::process::{pidfd, wait};

/// Hidden first argument by which main recognises that it is to be the jail's init.
pub const ENTRY: &str = "__session";

/// Init answers in milliseconds; on a machine that is thrashing, in seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running init.
pub struct Link {
    /// As the agent counts.
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub notes: Vec<String>,
    /// What was mounted when it was set up, and what tells it now; none without a namespace.
    mounts: Mutex<Option<Mounts>>,
    socket: UnixStream,
    sending: Mutex<()>,
    waiting: Arc<Mutex<Waiting>>,
    next: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    /// Init's end is closed: nothing more will come.
    ended: bool,
    replies: HashMap<u64, SyncSender<Result<Reply, Fault>>>,
    exits: HashMap<u64, oneshot::Sender<ExitStatus>>,
}

/// A good answer: a process id as counted inside, or descriptors.
pub struct Reply {
    pub pid: i32,
    pub fds: Vec<OwnedFd>,
}

impl Link {
    /// Starts an init from `exe` and waits until it is set up.
    pub fn start(exe: &OwnedFd, plan: &Plan) -> Result<Link, Error> {
        let start = |source| Error::Start { source };
        let (socket, theirs) = UnixStream::pair().map_err(start)?;
        let mut child = Command::new(hardening::exec_path(exe))
            .arg0("ims-job-jail")
            .arg(ENTRY)
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(start)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(start)?;
        let pid = child.id() as i32;
        // It does nothing before it has its setup: no socket is made outside of the filter.
        let filtered = plan.filter().map_or(Ok(()), |filter| filter.add(pid));
        let result = filtered
            .map_err(|source| Error::SetUp { what: "join the control group".into(), source })
            .and_then(|()| handshake(&socket, plan, pid));
        if plan.shape == Shape::Namespaces || result.is_err() {
            // Its work was to make the namespaces and init in them; or it failed.
            drop((result.is_err()).then(|| child.kill()));
            let _ = child.wait();
        }
        let greeting = result?;
        socket.set_read_timeout(None).map_err(start)?;
        let pidfd = pidfd::open(greeting.pid).map_err(start)?;
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let reader = socket.try_clone().map_err(start)?;
        let shared = waiting.clone();
        std::thread::Builder::new()
            .name("jail".into())
            .spawn(move || read_events(&reader, &shared))
            .map_err(start)?;
        let Greeting { pid, notes, mounts } = greeting;
        let mounts = Mutex::new(mounts.map(Mounts::new).transpose().map_err(start)?);
        let (sending, next) = (Mutex::new(()), AtomicU64::new(1));
        Ok(Link { pid, pidfd, notes, mounts, socket, sending, waiting, next })
    }

    pub fn has_ended(&self) -> bool {
        lock(&self.waiting).ended
    }

    /// Asks, with a number for the answer and for what it is about, and waits for the answer.
    pub fn call(
        &self,
        request: impl FnOnce(u64) -> Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(u64, Reply, oneshot::Receiver<ExitStatus>), Error> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = sync_channel(1);
        let (exit, exited) = oneshot::channel();
        {
            let mut waiting = lock(&self.waiting);
            if waiting.ended {
                return Err(Error::Gone);
            }
            waiting.replies.insert(id, reply);
            waiting.exits.insert(id, exit);
        }
        self.send(&request(id), fds)?;
        match answer.recv_timeout(PATIENCE) {
            Ok(Ok(reply)) => Ok((id, reply, exited)),
            Ok(Err(fault)) => Err(Error::Refused { source: fault.source(), what: fault.what }),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Gone),
            Err(RecvTimeoutError::Timeout) => Err(Error::Unresponsive(PATIENCE)),
        }
    }

    pub fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let _one_frame_at_a_time = lock(&self.sending);
        wire::send(&self.socket, request, fds).map_err(|_| Error::Gone)
    }

    /// Once: as long as it is there, so is the namespace.
    pub fn take_mounts(&self) -> Option<Mounts> {
        lock(&self.mounts).take()
    }

    /// Takes the status of an init that has ended.
    pub fn reap(&self) {
        wait::one(self.pid);
    }

    /// Ends init by force. Until it is reaped, its pid is nobody else's.
    pub fn kill(&self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }

    /// Tells init to end, without waiting.
    pub fn hang_up(&self) {
        // An error means that it has already ended.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.hang_up();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the lock guards is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Greeting {
    pid: i32,
    notes: Vec<String>,
    mounts: Option<OwnedFd>,
}

fn handshake(socket: &UnixStream, plan: &Plan, started: i32) -> Result<Greeting, Error> {
    let setup = Setup {
        shape: plan.shape,
        root: plan.root.clone(),
        steps: plan.steps.clone(),
        hide: plan.hide.clone(),
        keep: plan.keep,
        level: plan.level,
        own_group: plan.filter().is_some(),
    };
    let start = |source| Error::Start { source };
    wire::send(socket, &setup, &[]).map_err(start)?;
    let mut pid = started;
    loop {
        match wire::receive::<Event>(socket).map_err(start)? {
            Some((Event::Born { pid: born }, _)) => pid = born,
            Some((Event::Ready { notes }, mut fds)) => {
                return Ok(Greeting { pid, notes, mounts: fds.pop() });
            }
            Some((Event::Failed(fault), _)) => {
                return Err(Error::SetUp { source: fault.source(), what: fault.what });
            }
            Some(_) | None => return Err(Error::Gone),
        }
    }
}

/// Hands on what init says until its end; then nobody is left waiting.
fn read_events(socket: &UnixStream, waiting: &Mutex<Waiting>) {
    // A frame that makes no sense is treated as the end: init may have been taken over.
    while let Ok(Some((event, fds))) = wire::receive::<Event>(socket) {
        let mut waiting = lock(waiting);
        // Whoever does not wait any more is no concern of the others.
        match event {
            Event::Started { id, pid } => {
                waiting.replies.remove(&id).map(|reply| reply.try_send(Ok(Reply { pid, fds })));
            }
            Event::Pty { id } => {
                waiting.exits.remove(&id);
                waiting.replies.remove(&id).map(|reply| reply.try_send(Ok(Reply { pid: 0, fds })));
            }
            Event::Refused { id, fault } => {
                waiting.exits.remove(&id);
                waiting.replies.remove(&id).map(|reply| reply.try_send(Err(fault)));
            }
            Event::Exited { id, status } => {
                waiting.exits.remove(&id).map(|exit| exit.send(ExitStatus::from_raw(status)));
            }
            Event::Born { .. } | Event::Ready { .. } | Event::Failed(_) => break,
        }
    }
    *lock(waiting) = Waiting { ended: true, ..Waiting::default() };
    let _ = socket.shutdown(std::net::Shutdown::Both);
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let socket = self.socket.as_fd().as_raw_fd();
        f.debug_struct("Link").field("pid", &self.pid).field("socket", &socket).finish()
    }
}
