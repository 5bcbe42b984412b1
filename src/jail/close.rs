//! Closes a jail: ends and reports what sessions left running, and removes their mounts.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::init_client::InitClient;
use super::mounts::Mounts;
use super::plan::{Plan, Shape};
use linux::Signal;
use linux::process::{Process, descendants, inherited, kill_all, pidfd, rooted_in, wait_for};

/// What was found at the end.
#[derive(Clone, Debug, Default)]
pub struct Leftovers {
    /// Processes still running when the jail was closed.
    pub processes: Vec<Process>,
    /// Those of them that not even SIGKILL ended: stuck in the kernel.
    pub stuck: Vec<Process>,
    /// What users mounted inside, as they see it; undone with the jail.
    pub mounts: Vec<String>,
    /// Files that the jail added to the image and could not remove.
    pub additions: Vec<PathBuf>,
}

/// Longest wait for the end of a killed process.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

pub fn close(init: &InitClient, plan: &Plan, grace: Duration) -> Leftovers {
    let left = || {
        let mut left = descendants(init.line.pid);
        left.retain(|process| Some(process.pid) != init.first);
        left.extend(strays(plan));
        without_repetition(left)
    };
    let processes = left();
    if !processes.is_empty() {
        let deadline = Instant::now() + grace;
        // Interactive shells ignore SIGTERM but heed SIGHUP; the stopped must be woken to obey.
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCONT] {
            processes.iter().for_each(|process| process.signal(signal));
        }
        wait_for(&processes, deadline);
    }
    let stuck = kill_all(left, Instant::now() + KILL_PATIENCE);
    let mounts = init.take_mounts().map(Mounts::added).unwrap_or_default();
    end_init(init);
    Leftovers { processes, stuck, mounts, additions: Vec::new() }
}

/// Ends processes that init started before a user killed it; in a pid namespace the kernel has
/// already ended them.
pub fn end_strays(plan: &Plan) {
    for process in strays(plan) {
        tracing::warn!(pid = process.pid, name = process.name, "ended a process with its session");
    }
    for process in kill_all(|| strays(plan), Instant::now() + KILL_PATIENCE) {
        tracing::warn!(pid = process.pid, name = process.name, "cannot end a process of a session");
    }
}

/// Processes of sessions that are not below a running init: the agent has inherited them from an
/// init that was killed; or another process has, if an earlier agent was killed too.
fn strays(plan: &Plan) -> Vec<Process> {
    if plan.shape == Shape::Namespaces {
        return Vec::new();
    }
    let mut found = inherited();
    found.extend(plan.root.iter().flat_map(|root| rooted_in(root)));
    without_repetition(found)
}

fn without_repetition(mut processes: Vec<Process>) -> Vec<Process> {
    processes.sort_by_key(|process| process.pid);
    processes.dedup_by_key(|process| process.pid);
    processes
}

/// Init ends its pid namespace, or else is ended with that; the kernel kills all that is left there, and
/// drops its mounts.
fn end_init(init: &InitClient) {
    init.line.hang_up();
    let _ = pidfd::wait_until(&init.line.pidfd, Instant::now() + Duration::from_secs(2));
    if !init.line.kill() {
        tracing::warn!(pid = init.line.pid, "cannot end the process that starts sessions");
    }
    init.reap();
}
