//! The jail's init: a small single-threaded process of our binary that starts the sessions' processes
//! and reports their exit to the agent.
//!
//! If there is a pid namespace it is outside of it: sessions are its children, and it has no pid
//! there by which they could stop, trace or signal it. The namespace has a first process of its own
//! (`first`). Elsewhere it is a child subreaper, so that orphans come to it and not to the agent;
//! where a user kills it they come to the agent, which ends them (`close`). It ends when the
//! agent's end of its socket is closed, also because the agent was killed, and everything that it
//! has started ends with it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::first::{self, First};
use super::plan::Shape;
use super::session::{self, Session};
use super::wire::{self, Event, Fault, Request, Setup};
use linux::exec::SingleThreaded;
use linux::process::{descendants, signal_group, wait};
use linux::signals::{self, ChildEvents};
use linux::{Errno, Pid, Signal, fd, hardening, landlock, namespace, pty, seccomp};

/// Lives until the agent goes. Called by the entry with the socket that was its stdin.
pub fn run(socket: UnixStream) -> io::Result<()> {
    let single = SingleThreaded::check()?;
    let Some((setup, _)) = wire::receive::<Setup>(&socket)? else { return Ok(()) };
    match Init::set_up(single, socket, setup)? {
        Some(mut init) => {
            let served = init.serve();
            init.end_everything();
            served
        }
        None => Ok(()),
    }
}

struct Init {
    single: SingleThreaded,
    socket: UnixStream,
    children: ChildEvents,
    /// What sessions have as `/`; `None`: what init has.
    root: Option<OwnedFd>,
    /// The first process of the sessions' pid namespace.
    first: Option<Pid>,
    setup: Setup,
    /// Sessions whose first process is not reaped, by its pid.
    sessions: HashMap<Pid, Session>,
}

impl Init {
    /// `None` if it failed; the reason is sent to the agent.
    fn set_up(
        single: SingleThreaded,
        socket: UnixStream,
        setup: Setup,
    ) -> io::Result<Option<Init>> {
        // None ends it before it has ended what it started: not those of its agent's terminal, nor the
        // hang-up for a stopped process whose group has lost its last parent. Sessions start with none
        // blocked.
        signals::block_all()?;
        let children = ChildEvents::open()?;
        let prepared = match setup.shape {
            Shape::Plain => prepare_plain(&setup),
            Shape::Namespaces => prepare_namespaces(&single, &setup),
        };
        match prepared {
            Ok(Prepared { root, notes, first }) => {
                let mounts: Vec<_> = first.iter().map(|first| first.mounts.as_fd()).collect();
                let first = first.as_ref().map(|first| first.pid);
                let ready = Event::Ready { notes, first: first.map(Pid::as_raw) };
                wire::send(&socket, &ready, &mounts)?;
                let sessions = HashMap::new();
                Ok(Some(Init { single, socket, children, root, first, setup, sessions }))
            }
            Err(fault) => {
                wire::send(&socket, &Event::Failed(fault), &[])?;
                Ok(None)
            }
        }
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let ready = self.wait_for_news()?;
            // Launches first: a process that failed is reported as refused, not as exited.
            self.report_launches(&ready.launches)?;
            if ready.children {
                self.children.clear()?;
                if self.reap()? == Reaped::TheFirst {
                    return Ok(());
                }
            }
            if ready.request {
                match wire::receive::<Request>(&self.socket)? {
                    Some((request, fds)) => self.answer(request, fds)?,
                    None => return Ok(()),
                }
            }
        }
    }

    fn wait_for_news(&self) -> io::Result<News> {
        let mut awaited = vec![self.socket.as_fd(), self.children.as_fd()];
        let launching: Vec<(Pid, _)> = self
            .sessions
            .iter()
            .filter_map(|(pid, session)| Some((*pid, session.launch.as_ref()?.as_fd())))
            .collect();
        awaited.extend(launching.iter().map(|(_, fd)| *fd));
        let readable = fd::wait_readable(&awaited)?;
        let launches = launching.iter().zip(&readable[2..]).filter(|(_, readable)| **readable);
        Ok(News {
            request: readable[0],
            children: readable[1],
            launches: launches.map(|((pid, _), _)| *pid).collect(),
        })
    }

    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> io::Result<()> {
        match request {
            Request::Spawn { id, program, env, home } => {
                let launch = session::Launch { program, env, home, fds };
                self.spawn(id, launch)
            }
            Request::Signal { id, signal } => {
                let session = self.sessions.iter().find(|(_, session)| session.id == id);
                if let (Some((pid, _)), Ok(signal)) = (session, Signal::try_from(signal)) {
                    // Not reaped, so the number is still its own; gone otherwise is no error.
                    let _ = signal_group(*pid, signal);
                }
                Ok(())
            }
            Request::OpenPty { id } => self.open_pty(id),
            Request::Ping => wire::send(&self.socket, &Event::Pong, &[]),
        }
    }

    fn spawn(&mut self, id: u64, launch: session::Launch) -> io::Result<()> {
        match session::start(&self.single, id, launch, self.root.as_ref(), &self.setup) {
            Ok((pid, session)) => {
                self.sessions.insert(pid, session);
                Ok(())
            }
            // There are no new processes in a namespace that is over.
            Err(error) if self.first_ends() => Err(error),
            Err(error) => {
                let fault = Fault::new("fork", &error);
                wire::send(&self.socket, &Event::Refused { id, fault }, &[])
            }
        }
    }

    /// Whether the first process of the namespace has ended, or is about to.
    #[allow(clippy::disallowed_methods, reason = "init has one thread")]
    fn first_ends(&self) -> bool {
        let deadline = Instant::now() + Duration::from_millis(200);
        let Some(first) = self.first else { return false };
        while !wait::has_ended(first) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(PAUSE);
        }
        true
    }

    fn open_pty(&self, id: u64) -> io::Result<()> {
        // In namespaces `/` is that of the sessions; in a plain chroot the container's `/dev` serves.
        match pty::open(Path::new("/dev/ptmx")) {
            Ok(pty) => {
                let fds = [pty.master.as_fd(), pty.slave.as_fd()];
                wire::send(&self.socket, &Event::Pty { id }, &fds)
            }
            Err(error) => {
                let fault = Fault::new("open /dev/ptmx", &error);
                wire::send(&self.socket, &Event::Refused { id, fault }, &[])
            }
        }
    }

    /// Reports the results of launches to the agent; their pipe ends with exec, or brings a fault.
    fn report_launches(&mut self, pids: &[Pid]) -> io::Result<()> {
        for pid in pids {
            let Some(session) = self.sessions.get_mut(pid) else { continue };
            let id = session.id;
            let event = match session.finish_launch() {
                None => Event::Started { id },
                Some(fault) => {
                    self.sessions.remove(pid);
                    Event::Refused { id, fault }
                }
            };
            wire::send(&self.socket, &event, &[])?;
        }
        Ok(())
    }

    fn reap(&mut self) -> io::Result<Reaped> {
        while let Some((pid, status)) = wait::next()? {
            if self.first == Some(pid) {
                self.first = None;
                return Ok(Reaped::TheFirst);
            }
            if self.sessions.get(&pid).is_some_and(|session| session.launch.is_some()) {
                self.report_launches(&[pid])?;
            }
            if let Some(session) = self.sessions.remove(&pid) {
                wire::send(&self.socket, &Event::Exited { id: session.id, status }, &[])?;
            }
        }
        Ok(Reaped::Others)
    }

    /// Ends everything that was started, when init ends.
    fn end_everything(&mut self) {
        match (self.setup.shape, self.first.take()) {
            // All that is in the namespace ends before its first process has.
            (Shape::Namespaces, Some(first)) => wait::kill_and_wait(first),
            (Shape::Namespaces, None) => {}
            (Shape::Plain, _) => end_descendants(),
        }
    }
}

/// Longest wait for the end of killed processes.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(10);

/// Kills until nothing is left: a process may fork while the list of them is read.
#[allow(clippy::disallowed_methods, reason = "init has one thread")]
fn end_descendants() {
    let deadline = Instant::now() + KILL_PATIENCE;
    loop {
        let left = descendants(std::process::id() as i32);
        if left.is_empty() || Instant::now() >= deadline {
            return;
        }
        left.iter().for_each(|process| process.signal(Signal::SIGKILL));
        std::thread::sleep(PAUSE);
        while let Ok(Some(_)) = wait::next() {}
    }
}

#[derive(PartialEq, Eq)]
enum Reaped {
    /// The namespace is over.
    TheFirst,
    Others,
}

struct News {
    request: bool,
    children: bool,
    launches: Vec<Pid>,
}

/// What init has before its first session.
struct Prepared {
    /// What sessions have as `/`, where that is not init's.
    root: Option<OwnedFd>,
    notes: Vec<String>,
    first: Option<First>,
}

fn fault(what: &'static str) -> impl Fn(io::Error) -> Fault {
    move |error| Fault::new(what, &error)
}

/// In a plain chroot init must keep CAP_SYS_CHROOT for each session, and stays closed to them.
fn prepare_plain(setup: &Setup) -> Result<Prepared, Fault> {
    hardening::become_subreaper().map_err(fault("become a subreaper"))?;
    hardening::make_undumpable().map_err(fault("become undumpable"))?;
    hardening::keep_own_limits();
    let root = setup.root.as_deref().map(namespace::handle).transpose();
    let root = root.map_err(fault("open the image root"))?;
    if root.is_none() && landlock::can_hide() {
        confine_plain(setup)?;
    }
    Ok(Prepared { root, notes: Vec::new(), first: None })
}

/// In the agent's own container `/proc` shows the agent and what else runs there: processes of a domain
/// cannot signal, trace or look into those outside of it. Setuid programs are the price; in an image
/// they are part of what is built, and there is no `/proc` there. Having paid it, sessions get the system
/// call filter as well.
fn confine_plain(setup: &Setup) -> Result<(), Fault> {
    let confine = fault("confine by landlock");
    hardening::forbid_new_privileges().map_err(&confine)?;
    landlock::scope_before_hiding().map_err(confine)?;
    let guarded = [std::process::id(), std::os::unix::process::parent_id()];
    seccomp::load(setup.level, &guarded)
        .map_err(|error| Fault::of(crate::telemetry::chain(&error), Errno::EINVAL))
}

/// Init itself, too, ends up with what sessions have.
fn prepare_namespaces(single: &SingleThreaded, setup: &Setup) -> Result<Prepared, Fault> {
    namespace::leave(setup.own_group).map_err(fault("make namespaces"))?;
    let mut notes = Vec::new();
    if !landlock::scope_sockets_and_signals().map_err(fault("confine by landlock"))? {
        notes.push(
            "this kernel (older than 6.12) cannot stop sessions from connecting to \
                    abstract Unix sockets of the host"
                .into(),
        );
    }
    let mut first = first::start(single, setup)?;
    notes.append(&mut first.notes);
    // So are sessions until they run their program: what they have of init until then is closed to
    // others.
    hardening::make_undumpable().map_err(fault("become undumpable"))?;
    first::give_up(setup)?;
    Ok(Prepared { root: None, notes, first: Some(first) })
}
