//! The jail's init: a small single-threaded process of our binary that starts the sessions'
//! processes, reaps them and their orphans, and holds the namespaces.
//!
//! Where there is a pid namespace it is pid 1 there, with what a session may do and no more, and its
//! root is an empty directory: `/proc/1/root` then differs from `/`, by which Ansible, ischroot and
//! systemd tell a chroot. Elsewhere it is a child subreaper, so that orphans come to it and not to
//! the agent; where a user kills it they come to the agent, which ends them (`close`). It ends, and with it the jail, when the agent's end of its socket is closed.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::WaitPidFlag;
use nix::unistd::Pid;

use super::enter;
use super::plan::Shape;
use super::session::{self, Session};
use super::wire::{self, Event, Fault, Request, Setup};
use crate::os::exec::SingleThreaded;
use crate::os::process::wait;
use crate::os::{hardening, landlock, namespace, pty, seccomp};

/// Lives until the agent goes. Called by the entry with the socket that was its stdin.
pub fn run(socket: UnixStream) -> io::Result<()> {
    let single = SingleThreaded::check()?;
    let Some((setup, _)) = wire::receive::<Setup>(&socket)? else { return Ok(()) };
    if setup.shape == Shape::Namespaces && !be_born_in_namespaces(&socket, setup.own_group)? {
        return Ok(());
    }
    match Init::set_up(single, socket, setup)? {
        Some(mut init) => init.serve(),
        None => Ok(()),
    }
}

/// `true` in the process that is pid 1 of the new namespace, once its parent is gone.
fn be_born_in_namespaces(socket: &UnixStream, own_group: bool) -> io::Result<bool> {
    let (gone, alive) = io::pipe()?;
    let born = namespace::leave(own_group)
        .map_err(|error| Fault::new("make namespaces", &error))
        .and_then(|()| {
            namespace::fork_sibling().map_err(|error| Fault::new("fork the jail's init", &error))
        });
    match born {
        Err(fault) => wire::send(socket, &Event::Failed(fault), &[]).map(|()| false),
        Ok(Some(pid)) => {
            wire::send(socket, &Event::Born { pid: pid.as_raw() }, &[]).map(|()| false)
        }
        Ok(None) => {
            // Two writers on one socket would mix their frames.
            drop(alive);
            io::copy(&mut { gone }, &mut io::sink())?;
            Ok(true)
        }
    }
}

struct Init {
    single: SingleThreaded,
    socket: UnixStream,
    signals: SignalFd,
    /// What sessions have as `/`; `None`: what init has.
    root: Option<OwnedFd>,
    setup: Setup,
    /// Sessions whose first process is not reaped, by its pid.
    sessions: HashMap<Pid, Session>,
}

impl Init {
    /// `None` if it failed; the agent is told why.
    fn set_up(
        single: SingleThreaded,
        socket: UnixStream,
        setup: Setup,
    ) -> io::Result<Option<Init>> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        match prepare(&setup) {
            Ok(Prepared { root, notes, mounts }) => {
                let mounts: Vec<_> = mounts.iter().map(AsFd::as_fd).collect();
                wire::send(&socket, &Event::Ready { notes }, &mounts)?;
                let sessions = HashMap::new();
                Ok(Some(Init { single, socket, signals, root, setup, sessions }))
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
            // Launches first: a process that failed is told as refused, not as exited.
            self.report_launches(&ready.launches)?;
            if ready.children {
                while self.signals.read_signal()?.is_some() {}
                self.reap()?;
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
        let mut polled = vec![
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        let launching: Vec<(Pid, _)> = self
            .sessions
            .iter()
            .filter_map(|(pid, session)| Some((*pid, session.launch.as_ref()?.as_fd())))
            .collect();
        polled.extend(launching.iter().map(|(_, fd)| PollFd::new(*fd, PollFlags::POLLIN)));
        while let Err(errno) = poll(&mut polled, PollTimeout::NONE) {
            if errno != Errno::EINTR {
                return Err(errno.into());
            }
        }
        let any = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let launches = launching.iter().zip(&polled[2..]).filter(|(_, fd)| any(fd));
        Ok(News {
            request: any(&polled[0]),
            children: any(&polled[1]),
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
                    let _ = killpg(*pid, signal);
                }
                Ok(())
            }
            Request::OpenPty { id } => self.open_pty(id),
        }
    }

    fn spawn(&mut self, id: u64, launch: session::Launch) -> io::Result<()> {
        match session::start(&self.single, id, launch, self.root.as_ref(), &self.setup) {
            Ok((pid, session)) => {
                self.sessions.insert(pid, session);
                Ok(())
            }
            Err(error) => {
                let fault = Fault::new("fork", &error);
                wire::send(&self.socket, &Event::Refused { id, fault }, &[])
            }
        }
    }

    fn open_pty(&self, id: u64) -> io::Result<()> {
        match self.in_root(|| pty::open(Path::new("/dev/ptmx"))) {
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

    /// Does something with the jail's `/dev` in sight; in a plain chroot the container's serves.
    fn in_root<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let (Some(root), Shape::Namespaces) = (&self.root, self.setup.shape) else { return act() };
        let own = namespace::handle(Path::new("/"))?;
        namespace::change_root(root)?;
        let result = act();
        namespace::change_root(own)?;
        result
    }

    /// Tells the agent what became of launches; their pipe ends with exec, or brings a fault.
    fn report_launches(&mut self, pids: &[Pid]) -> io::Result<()> {
        for pid in pids {
            let Some(session) = self.sessions.get_mut(pid) else { continue };
            let id = session.id;
            let event = match session.finish_launch() {
                None => Event::Started { id, pid: pid.as_raw() },
                Some(fault) => {
                    self.sessions.remove(pid);
                    Event::Refused { id, fault }
                }
            };
            wire::send(&self.socket, &event, &[])?;
        }
        Ok(())
    }

    fn reap(&mut self) -> io::Result<()> {
        while let Some((pid, status)) = wait::next(WaitPidFlag::WNOHANG)? {
            if self.sessions.get(&pid).is_some_and(|session| session.launch.is_some()) {
                self.report_launches(&[pid])?;
            }
            if let Some(session) = self.sessions.remove(&pid) {
                wire::send(&self.socket, &Event::Exited { id: session.id, status }, &[])?;
            }
        }
        Ok(())
    }
}

struct News {
    request: bool,
    children: bool,
    launches: Vec<Pid>,
}

/// What init has before its first session.
struct Prepared {
    /// What sessions have as `/`.
    root: Option<OwnedFd>,
    notes: Vec<String>,
    /// The mounts of the namespace, readable at any time.
    mounts: Option<File>,
}

/// In namespaces init ends up with less than it began with; in a plain chroot it must keep
/// CAP_SYS_CHROOT for each session, and stays closed to them.
fn prepare(setup: &Setup) -> Result<Prepared, Fault> {
    match setup.shape {
        Shape::Plain => prepare_plain(setup),
        Shape::Namespaces => prepare_namespaces(setup),
    }
}

fn fault(what: &'static str) -> impl Fn(io::Error) -> Fault {
    move |error| Fault::new(what, &error)
}

fn prepare_plain(setup: &Setup) -> Result<Prepared, Fault> {
    hardening::become_subreaper().map_err(fault("become a subreaper"))?;
    hardening::make_undumpable().map_err(fault("become undumpable"))?;
    let root = setup.root.as_deref().map(namespace::handle).transpose();
    let root = root.map_err(fault("open the image root"))?;
    if root.is_none() && landlock::can_hide() {
        confine_plain().map_err(fault("confine by landlock"))?;
    }
    Ok(Prepared { root, notes: Vec::new(), mounts: None })
}

/// In the agent's own container `/proc` shows the agent and what else runs there: processes of a domain
/// cannot signal, trace or look into those outside of it. Setuid programs are the price; in an image
/// they are part of what is built, and there is no `/proc` there.
fn confine_plain() -> io::Result<()> {
    hardening::forbid_new_privileges()?;
    landlock::scope_before_hiding()
}

fn prepare_namespaces(setup: &Setup) -> Result<Prepared, Fault> {
    let mut notes = enter::carry_out(&setup.steps)?;
    // Opened while `/` is that of the sessions: it goes on telling what they see.
    let mounts = File::open("/proc/self/mountinfo").map_err(fault("open the list of mounts"))?;
    let root = step_aside(setup).map_err(fault("leave the image root"))?;
    if !landlock::scope_sockets_and_signals().map_err(fault("confine by landlock"))? {
        notes.push("this kernel (before 6.12) cannot keep sessions from abstract sockets".into());
    }
    seccomp::load(setup.level)
        .map_err(|error| Fault { what: crate::telemetry::chain(&error), errno: libc::EINVAL })?;
    setup.keep.keep_only().map_err(fault("drop capabilities"))?;
    Ok(Prepared { root, notes, mounts: Some(mounts) })
}

/// Takes an empty directory as init's own root, where sessions have the image's.
fn step_aside(setup: &Setup) -> io::Result<Option<OwnedFd>> {
    if setup.root.is_none() {
        return Ok(None);
    }
    let root = namespace::handle(Path::new("/"))?;
    let empty = namespace::empty_directory(Path::new("/dev/shm"))?;
    namespace::change_root(empty)?;
    Ok(Some(root))
}
