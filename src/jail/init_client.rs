//! Starts an init, and requests sessions and terminals from it.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::Error;
use super::line::{Line, PATIENCE};
use super::mounts::Mounts;
use super::plan::Plan;
use super::wire::{self, Event, Request, Setup};
use linux::hardening;
use linux::process::{mark, pidfd};

/// Hidden first argument by which main recognises that it is to be the jail's init.
pub const ENTRY: &str = mark::INIT;

/// A running init.
#[derive(Debug)]
pub struct InitClient {
    pub line: Arc<Line>,
    /// Of the pid namespace's first process, as the agent counts.
    pub first: Option<i32>,
    pub notes: Vec<String>,
    /// What was mounted when it was set up, and a file that lists what is mounted now; none without
    /// a namespace.
    mounts: Mutex<Option<Mounts>>,
    next: AtomicU64,
}

impl InitClient {
    /// Starts an init from `exe` and waits until it is set up. `mark` identifies its owner.
    pub fn start(exe: &OwnedFd, plan: &Plan, mark: &OsStr) -> Result<InitClient, Error> {
        let start = |source| Error::Start { source };
        let (socket, theirs) = UnixStream::pair().map_err(start)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(start)?;
        let mut child = Command::new(hardening::exec_path(exe))
            .arg0("ims-job-jail")
            .arg(ENTRY)
            .arg(mark)
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(start)?;
        let pid = child.id() as i32;
        // It does nothing before it has its setup: no socket is created outside of the filter.
        let filtered = plan.filter().map_or(Ok(()), |filter| filter.add(pid));
        let init = filtered
            .map_err(|source| Error::SetUp { what: "join the control group".into(), source })
            .and_then(|()| handshake(&socket, plan))
            .and_then(|greeting| InitClient::follow(pid, greeting, socket));
        if init.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        init
    }

    fn follow(pid: i32, greeting: Greeting, socket: UnixStream) -> Result<InitClient, Error> {
        let start = |source| Error::Start { source };
        let Greeting { first, notes, mounts } = greeting;
        let line = Arc::new(Line::new(pid, first, socket).map_err(start)?);
        let mounts = Mutex::new(mounts.map(Mounts::new).transpose().map_err(start)?);
        let reader = line.clone();
        std::thread::Builder::new()
            .name("jail".into())
            .spawn(move || reader.follow())
            .map_err(start)?;
        Ok(InitClient { line, first, notes, mounts, next: AtomicU64::new(1) })
    }

    /// Sends a request with new ids for the reply and for its subject, and waits for the reply:
    /// returns its descriptors.
    pub fn call(
        &self,
        request: impl FnOnce(u64) -> Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(u64, Vec<OwnedFd>, oneshot::Receiver<ExitStatus>), Error> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = sync_channel(1);
        let (exit, exited) = oneshot::channel();
        self.line.expect(id, reply, exit)?;
        if let Err(error) = self.line.send(&request(id), fds) {
            self.line.forget(id);
            return Err(error);
        }
        match answer.recv_timeout(PATIENCE) {
            Ok(Ok(fds)) => Ok((id, fds, exited)),
            Ok(Err(fault)) => Err(Error::Refused { source: fault.source(), what: fault.what }),
            Err(RecvTimeoutError::Disconnected) => {
                Err(self.line.ended().map_or(Error::Gone, Error::from))
            }
            Err(RecvTimeoutError::Timeout) => {
                self.line.forget(id);
                Err(Error::Unresponsive(PATIENCE))
            }
        }
    }

    /// Once: as long as it is there, so is the namespace.
    pub fn take_mounts(&self) -> Option<Mounts> {
        // Whole at any time: it is only ever taken.
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes the statuses of what has ended, so that no zombie stays.
    pub fn reap(&self) {
        pidfd::reap(&self.line.pidfd);
        // Where init was killed, its child has become ours.
        self.line.first.iter().for_each(pidfd::reap);
    }
}

impl Drop for InitClient {
    fn drop(&mut self) {
        self.line.hang_up();
    }
}

struct Greeting {
    first: Option<i32>,
    notes: Vec<String>,
    mounts: Option<OwnedFd>,
}

fn handshake(socket: &UnixStream, plan: &Plan) -> Result<Greeting, Error> {
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
    match wire::receive::<Event>(socket).map_err(start)? {
        Some((Event::Ready { notes, first }, mut fds)) => {
            Ok(Greeting { first, notes, mounts: fds.pop() })
        }
        Some((Event::Failed(fault), _)) => {
            Err(Error::SetUp { source: fault.source(), what: fault.what })
        }
        _ => Err(Error::Gone),
    }
}
