//! Ending processes that sessions left behind: SIGTERM, some time, SIGKILL.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::{PidFd, Process, descendants};

/// How long a killed process may take to go; longer means it hangs in the kernel.
const KILL_TIME: Duration = Duration::from_secs(5);

/// New processes may appear while old ones are ended: how often we look again.
const ROUNDS: u32 = 10;

/// A process that was found running, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub process: Process,
    pub command_line: String,
    /// SIGTERM was not enough.
    pub killed: bool,
    /// It did not even go after SIGKILL (it hangs in the kernel).
    pub remains: bool,
}

/// Ends what descends from this process, except pids for which `spare` is true, and their
/// descendants. Blocks for at most `grace` plus a few seconds.
///
/// Complete only if this process is PID 1 or a subreaper. Each process is named in the log.
pub fn end_descendants(grace: Duration, spare: impl Fn(i32) -> bool) -> Vec<Left> {
    let deadline = Instant::now() + grace;
    let own = std::process::id() as i32;
    let mut left: Vec<Left> = Vec::new();
    for _ in 0..ROUNDS {
        let mut spared: Vec<i32> = Vec::new();
        let mut found = descendants(own);
        // Parents come first, so one pass hands "spared" down.
        found.retain(|process| {
            let keep = spare(process.pid) || spared.contains(&process.parent);
            if keep {
                spared.push(process.pid);
            }
            !keep && process.runs() && !left.iter().any(|known| known.process == *process)
        });
        if found.is_empty() {
            break;
        }
        left.extend(end(found, deadline.saturating_duration_since(Instant::now())));
    }
    left
}

/// Sends SIGTERM to each of `processes`, and SIGKILL to those that are there after `grace`.
pub fn end(processes: Vec<Process>, grace: Duration) -> Vec<Left> {
    let mut open = Vec::new();
    for process in processes {
        let command_line = process.command_line();
        if let Ok(fd) = PidFd::of(&process) {
            signal(&fd, &process, Signal::SIGTERM);
            // A stopped process sees no SIGTERM.
            signal(&fd, &process, Signal::SIGCONT);
            open.push((fd, Left { process, command_line, killed: false, remains: false }));
        }
    }
    wait(&open, grace);
    for (fd, left) in &mut open {
        left.killed = !has_ended(fd);
        if left.killed {
            signal(fd, &left.process, Signal::SIGKILL);
        }
    }
    wait(&open, KILL_TIME);
    let finish = |(fd, mut left): (PidFd, Left)| {
        left.remains = left.killed && !has_ended(&fd);
        tracing::warn!(
            pid = left.process.pid,
            command = %left.command_line,
            killed = left.killed,
            remains = left.remains,
            "ended a process that a session left behind"
        );
        left
    };
    open.into_iter().map(finish).collect()
}

fn signal(fd: &PidFd, process: &Process, signal: Signal) {
    match fd.signal(signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(errno) => tracing::warn!(%process, %signal, %errno, "cannot signal a process"),
    }
}

fn has_ended(fd: &PidFd) -> bool {
    use std::os::fd::AsFd;
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

/// Waits until all have ended, but no longer than `time`.
fn wait(open: &[(PidFd, Left)], time: Duration) {
    use std::os::fd::AsFd;
    let deadline = Instant::now() + time;
    for (fd, _) in open {
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(rest.as_millis()).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Err(Errno::EINTR) => continue,
                _ => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};

    /// Starts a shell and waits until its script has said that it is ready.
    fn shell(script: &str) -> Child {
        let mut child =
            Command::new("/bin/sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        child
    }

    fn process(child: &Child) -> Process {
        Process::read(child.id() as i32).unwrap()
    }

    #[test]
    fn sigterm_is_enough_for_most_and_sigkill_for_the_rest() {
        let mut willing = shell("echo ready; exec sleep 600");
        let mut stubborn = shell("trap '' TERM; echo ready; while :; do sleep 600; done");
        let children = descendants(stubborn.id() as i32);
        let left = end(vec![process(&willing), process(&stubborn)], Duration::from_millis(300));
        assert_eq!(left.iter().map(|left| left.killed).collect::<Vec<_>>(), [false, true]);
        assert!(left[0].command_line.contains("sleep 600"), "{}", left[0].command_line);
        assert_eq!(willing.wait().unwrap().signal(), Some(15));
        assert_eq!(stubborn.wait().unwrap().signal(), Some(9));
        end(children, Duration::ZERO);
    }

    #[test]
    fn a_stopped_process_is_ended_too() {
        let mut child = shell("echo ready; kill -STOP $$; sleep 600");
        let left = end(vec![process(&child)], Duration::from_secs(10));
        assert!(!left[0].killed);
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_is_gone_is_not_mistaken_for_its_successor() {
        let mut child = shell("echo ready; exec sleep 600");
        let mut stale = process(&child);
        stale.start_time += 1;
        assert!(end(vec![stale], Duration::ZERO).is_empty());
        assert_eq!(child.try_wait().unwrap(), None, "another process was signalled");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_spared_process_keeps_its_children() {
        let mut kept = shell("sleep 600 & echo ready; wait");
        let kept_pid = kept.id() as i32;
        let mut other = shell("echo ready; exec sleep 600");
        let other_pid = other.id() as i32;
        // Other tests of this process run children of their own: spare all but ours.
        let mine = [kept_pid, other_pid];
        let theirs: Vec<i32> = descendants(std::process::id() as i32)
            .iter()
            .map(|process| process.pid)
            .filter(|pid| !mine.contains(pid))
            .collect();
        let started = |pid: i32| pid == other_pid;
        let left =
            end_descendants(Duration::from_secs(10), |pid| theirs.contains(&pid) || !started(pid));
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].process.pid, other_pid);
        other.wait().unwrap();
        assert!(kept.try_wait().unwrap().is_none());
        end(descendants(kept_pid), Duration::from_secs(10));
        kept.wait().unwrap();
    }
}
