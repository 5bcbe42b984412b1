//! Orphans: as PID 1, or as subreaper, this process inherits them and must wait for them.
//!
//! `job` keeps a [`Reaper`] and calls it now and then. A child of our own is waited for by whoever
//! started it (tokio, a pidfd, [`super::run`]); taking its exit status would lose it.

use std::collections::{HashMap, HashSet};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::Process;

/// How long a zombie must have been one before it counts as an orphan. Whoever starts a child
/// registers it within this time, and waits for a short-lived one within it.
const ORPHAN_AGE: Duration = Duration::from_secs(2);

static OWN: LazyLock<Mutex<HashSet<i32>>> = LazyLock::new(Mutex::default);

fn own() -> std::sync::MutexGuard<'static, HashSet<i32>> {
    // Every change is one insert or remove: the set is whole even if a holder panicked.
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that a child is waited for by its starter. Drop it after the wait.
#[derive(Debug)]
pub struct OwnChild(i32);

impl OwnChild {
    /// Registers a child by its number.
    pub fn register(pid: u32) -> Self {
        let pid = i32::try_from(pid).expect("a process id fits in pid_t");
        own().insert(pid);
        Self(pid)
    }

    /// True if `pid` is registered: such processes are not leftovers of a session.
    pub fn is_registered(pid: i32) -> bool {
        own().contains(&pid)
    }
}

impl Drop for OwnChild {
    fn drop(&mut self) {
        own().remove(&self.0);
    }
}

/// Waits for orphans.
#[derive(Debug, Default)]
pub struct Reaper {
    /// Zombies and when they were first seen, by pid and start time.
    seen: HashMap<(i32, u64), Instant>,
}

impl Reaper {
    /// Waits for the zombies among our children that nobody else will wait for, and returns them.
    /// Call it every second or so; it never blocks.
    pub fn reap(&mut self) -> Vec<Process> {
        self.reap_older_than(ORPHAN_AGE)
    }

    fn reap_older_than(&mut self, age: Duration) -> Vec<Process> {
        let now = Instant::now();
        let me = std::process::id() as i32;
        let zombies: Vec<Process> = super::all()
            .into_iter()
            .filter(|process| process.parent == me && process.state == 'Z')
            .filter(|process| !OwnChild::is_registered(process.pid))
            .collect();
        let key = |process: &Process| (process.pid, process.start_time);
        let present: HashSet<_> = zombies.iter().map(key).collect();
        self.seen.retain(|key, _| present.contains(key));
        zombies
            .into_iter()
            .filter(|zombie| now - *self.seen.entry(key(zombie)).or_insert(now) >= age)
            .filter(|zombie| waitpid(Pid::from_raw(zombie.pid), Some(WaitPidFlag::WNOHANG)).is_ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn zombie(status: &str) -> (std::process::Child, i32) {
        let child = Command::new("/bin/sh").args(["-c", status]).spawn().unwrap();
        let pid = child.id() as i32;
        let deadline = Instant::now() + Duration::from_secs(10);
        while Process::read(pid).is_some_and(|process| process.runs()) {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        (child, pid)
    }

    #[test]
    fn a_registered_child_keeps_its_status_and_another_is_reaped() {
        let (mut mine, mine_pid) = zombie("exit 7");
        let guard = OwnChild::register(mine_pid as u32);
        let (mut orphan, orphan_pid) = zombie("exit 1");
        // Only this zombie's age is set back: other tests of this process have children too.
        let start_time = Process::read(orphan_pid).unwrap().start_time;
        let mut reaper = Reaper::default();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        reaper.seen.insert((orphan_pid, start_time), long_ago);
        let reaped = reaper.reap();
        assert!(reaped.iter().any(|process| process.pid == orphan_pid));
        assert!(!reaped.iter().any(|process| process.pid == mine_pid));
        assert_eq!(mine.wait().unwrap().code(), Some(7));
        assert!(orphan.wait().is_err(), "its status was taken");
        drop(guard);
        assert!(!OwnChild::is_registered(mine_pid));
    }

    #[test]
    fn a_fresh_zombie_is_left_to_its_starter() {
        let (mut child, pid) = zombie("exit 3");
        let reaped = Reaper::default().reap();
        assert!(!reaped.iter().any(|process| process.pid == pid));
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }
}
