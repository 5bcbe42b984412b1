//! The first process of a jail's pid namespace. It sets up what sessions see, and then reaps their
//! orphans.
//!
//! It is our only process that sessions can see, so it has nothing worth attacking: no descriptor,
//! no capability that they lack, and an empty directory as its root. Sessions may look at that
//! directory: `/proc/1/root` differs from `/`, by which Ansible, ischroot and systemd recognize a
//! chroot. Its end is the end of all processes of the namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::enter;
use super::wire::{self, Fault, Setup};
use linux::exec::{self, SingleThreaded};
use linux::process::wait;
use linux::signals::BlockedChildSignal;
use linux::{Errno, Pid, hardening, namespace, seccomp};

/// As sessions count.
pub const PID: u32 = 1;

/// A first process that has set everything up.
pub struct First {
    /// As its parent counts.
    pub pid: Pid,
    /// What could not be had.
    pub notes: Vec<String>,
    /// The mounts of the namespace, readable at any time.
    pub mounts: OwnedFd,
}

/// Forks it, and waits until all is set up. The caller has left for new namespaces; its own `/` follows.
pub fn start(single: &SingleThreaded, setup: &Setup) -> Result<First, Fault> {
    let fork = |error: io::Error| Fault::new("fork the first process", &error);
    let (ours, theirs) = UnixStream::pair().map_err(fork)?;
    let Some(pid) = single.fork().map_err(fork)? else {
        exec::exit_now(i32::from(live(theirs, setup).is_err()))
    };
    drop(theirs);
    let answer = wire::receive::<Result<Vec<String>, Fault>>(&ours);
    let answer = answer.map_err(|error| Fault::new("wait for the first process", &error))?;
    let absent = || Fault::of("start the first process", Errno::ESRCH);
    let (prepared, mut fds) = answer.ok_or_else(absent)?;
    Ok(First { pid, notes: prepared?, mounts: fds.pop().ok_or_else(absent)? })
}

fn live(socket: UnixStream, setup: &Setup) -> io::Result<()> {
    // Its parent, which has no number here, ends with the agent at the latest. If it has already, the
    // answer below cannot be sent.
    hardening::die_with_parent()?;
    match prepare(setup) {
        Ok((notes, mounts)) => wire::send(&socket, &Ok::<_, Fault>(notes), &[mounts.as_fd()])?,
        Err(fault) => return wire::send(&socket, &Err::<Vec<String>, _>(fault), &[]),
    }
    exec::keep_no_descriptor()?;
    let ended = BlockedChildSignal::block()?;
    loop {
        while wait::next()?.is_some() {}
        ended.wait()?;
    }
}

fn prepare(setup: &Setup) -> Result<(Vec<String>, File), Fault> {
    let notes = enter::carry_out(&setup.steps)?;
    // Opened while `/` is that of the sessions: it keeps showing what they see.
    let mounts = File::open("/proc/self/mountinfo");
    let mounts = mounts.map_err(|error| Fault::new("open the list of mounts", &error))?;
    if setup.root.is_some() {
        step_aside().map_err(|error| Fault::new("leave the image root", &error))?;
    }
    give_up(setup)?;
    Ok((notes, mounts))
}

/// Takes an empty directory as root, where sessions have the image's.
fn step_aside() -> io::Result<()> {
    let empty = namespace::empty_directory(Path::new("/dev/shm"))?;
    namespace::change_root(empty)
}

/// From here on this process, and all that it starts, can do what sessions can and no more.
pub fn give_up(setup: &Setup) -> Result<(), Fault> {
    seccomp::load(setup.level, &[PID])
        .map_err(|error| Fault::of(crate::telemetry::chain(&error), Errno::EINVAL))?;
    setup.keep.keep_only().map_err(|error| Fault::new("drop capabilities", &error))
}
