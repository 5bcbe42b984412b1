//! The socket to a running init: sends frames, receives replies and exits, and checks that init
//! responds.
//!
//! Sessions can see init or stop it. So every wait for it has a deadline, and an init that no
//! longer responds is killed: its callers get an error, and the jail starts another.

use std::collections::HashMap;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::Error;
use super::wire::{self, Event, Fault, Request};
use linux::process::{Process, pidfd};
use linux::unix;

/// Init answers in milliseconds; on a machine that is thrashing, in seconds.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One that is stopped answers never.
const PATIENCE_WITH_STOPPED: Duration = Duration::from_secs(10);

/// How long init may be silent before it is checked, and how often the agent looks for its reply.
const QUIET: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_secs(1);

/// How long init may take to end by itself.
const ENDING: Duration = Duration::from_secs(2);

/// Longest wait for the end of a killed process.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// A running init, from its socket's point of view.
pub struct Line {
    /// As the agent counts.
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// The first process of the sessions' pid namespace, which does not outlive init.
    pub first: Option<OwnedFd>,
    pub socket: UnixStream,
    sending: Mutex<()>,
    waiting: Mutex<Waiting>,
}

/// Why nothing more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Gone,
    Unresponsive,
}

type OnEnd = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Waiting {
    ended: Option<End>,
    replies: HashMap<u64, SyncSender<Result<Vec<OwnedFd>, Fault>>>,
    exits: HashMap<u64, oneshot::Sender<ExitStatus>>,
    on_end: Option<OnEnd>,
}

impl Line {
    pub fn new(pid: i32, first: Option<i32>, socket: UnixStream) -> io::Result<Line> {
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE_WITH_STOPPED))?;
        Ok(Line {
            pid,
            pidfd: pidfd::open(pid)?,
            first: first.map(pidfd::open).transpose()?,
            socket,
            sending: Mutex::default(),
            waiting: Mutex::default(),
        })
    }

    pub fn ended(&self) -> Option<End> {
        lock(&self.waiting).ended
    }

    /// Calls `act` once init has ended; never, if it has already.
    pub fn on_end(&self, act: OnEnd) {
        let mut waiting = lock(&self.waiting);
        if waiting.ended.is_none() {
            waiting.on_end = Some(act);
        }
    }

    /// Where the answer to a request goes, and the exit of what it starts.
    pub fn expect(
        &self,
        id: u64,
        reply: SyncSender<Result<Vec<OwnedFd>, Fault>>,
        exit: oneshot::Sender<ExitStatus>,
    ) -> Result<(), Error> {
        let mut waiting = lock(&self.waiting);
        if let Some(end) = waiting.ended {
            return Err(end.into());
        }
        waiting.replies.insert(id, reply);
        waiting.exits.insert(id, exit);
        Ok(())
    }

    /// Discards a reply for which the caller no longer waits.
    pub fn forget(&self, id: u64) {
        let mut waiting = lock(&self.waiting);
        waiting.replies.remove(&id);
        waiting.exits.remove(&id);
    }

    pub fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let _one_frame_at_a_time = lock(&self.sending);
        wire::send(&self.socket, request, fds).map_err(|error| {
            if error.kind() != io::ErrorKind::InvalidInput {
                // A part of a frame may have been sent: init could not parse what follows.
                self.hang_up();
            }
            Error::Gone
        })
    }

    /// Asks init to end, without waiting.
    pub fn hang_up(&self) {
        // An error means that it has already ended.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Kills init, and waits for its end and that of all processes in its namespace. `false` if
    /// that takes too long.
    pub fn kill(&self) -> bool {
        let deadline = Instant::now() + KILL_PATIENCE;
        let processes = || [&self.pidfd].into_iter().chain(&self.first);
        processes().for_each(|process| drop(pidfd::kill(process)));
        processes().all(|process| pidfd::wait_until(process, deadline).unwrap_or(false))
    }

    /// Dispatches the messages of init until its end, and then ends all waits.
    pub fn follow(&self) {
        let end = self.hear();
        self.hang_up();
        // Asked to end, it does, unless it is stopped or has been taken over.
        let _ = pidfd::wait_until(&self.pidfd, Instant::now() + ENDING);
        if !self.kill() {
            tracing::warn!(pid = self.pid, "cannot end the process that starts sessions");
        }
        let on_end = {
            let mut waiting = lock(&self.waiting);
            let ended = Waiting { ended: Some(end), ..Waiting::default() };
            std::mem::replace(&mut *waiting, ended).on_end
        };
        if let Some(act) = on_end {
            act();
        }
    }

    fn hear(&self) -> End {
        let mut asked: Option<Instant> = None;
        loop {
            let wait = if asked.is_some() { LOOK } else { QUIET };
            match unix::wait_readable(&self.socket, wait) {
                Ok(true) => {
                    // A frame that makes no sense is treated as the end: init may have been taken over.
                    let Ok(Some((event, fds))) = wire::receive(&self.socket) else {
                        return End::Gone;
                    };
                    if !lock(&self.waiting).take(event, fds) {
                        return End::Gone;
                    }
                    asked = None;
                }
                Ok(false) => match asked {
                    None => {
                        asked = Some(Instant::now());
                        self.ask();
                    }
                    Some(since) if since.elapsed() >= self.patience() => return End::Unresponsive,
                    Some(_) => {}
                },
                Err(_) => return End::Gone,
            }
        }
    }

    /// Where another thread cannot get rid of its request, none is needed to find that out.
    fn ask(&self) {
        if let Ok(_one_frame_at_a_time) = self.sending.try_lock() {
            // An error means the end, which the socket reports as well.
            let _ = wire::send(&self.socket, &Request::Ping, &[]);
        }
    }

    fn patience(&self) -> Duration {
        let stopped = Process::read(self.pid).is_some_and(|init| matches!(init.state, 'T' | 't'));
        if stopped { PATIENCE_WITH_STOPPED } else { PATIENCE }
    }
}

impl Waiting {
    /// `false` for a message that init must not send after its setup. Replies without a waiting
    /// caller are ignored.
    fn take(&mut self, event: Event, fds: Vec<OwnedFd>) -> bool {
        match event {
            Event::Started { id } => {
                self.replies.remove(&id).map(|reply| reply.try_send(Ok(fds)));
            }
            Event::Pty { id } => {
                self.exits.remove(&id);
                self.replies.remove(&id).map(|reply| reply.try_send(Ok(fds)));
            }
            Event::Refused { id, fault } => {
                self.exits.remove(&id);
                self.replies.remove(&id).map(|reply| reply.try_send(Err(fault)));
            }
            Event::Exited { id, status } => {
                self.exits.remove(&id).map(|exit| exit.send(ExitStatus::from_raw(status)));
            }
            Event::Pong => {}
            Event::Ready { .. } | Event::Failed(_) => return false,
        }
        true
    }
}

impl From<End> for Error {
    fn from(end: End) -> Error {
        match end {
            End::Gone => Error::Gone,
            End::Unresponsive => Error::Unresponsive(PATIENCE_WITH_STOPPED),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the lock guards is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("pid", &self.pid).field("socket", &self.socket).finish()
    }
}
