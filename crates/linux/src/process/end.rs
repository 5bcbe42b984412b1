//! Ending processes that may start others meanwhile.

use std::time::Instant;

use nix::sys::signal::Signal;

use super::{Process, pidfd};

/// Waits until these have ended.
pub fn wait_for(processes: &[Process], deadline: Instant) {
    for process in processes {
        // One that cannot be opened has ended.
        if let Ok(pidfd) = pidfd::open(process.pid) {
            let _ = pidfd::wait_until(pidfd, deadline);
        }
    }
}

/// Kills until nothing is left: a process may fork while the list of them is read. Returned is what
/// could not be ended.
pub fn kill_all(find: impl Fn() -> Vec<Process>, deadline: Instant) -> Vec<Process> {
    loop {
        let left = find();
        if left.is_empty() || Instant::now() >= deadline {
            return left;
        }
        left.iter().for_each(|process| process.signal(Signal::SIGKILL));
        wait_for(&left, deadline);
    }
}
