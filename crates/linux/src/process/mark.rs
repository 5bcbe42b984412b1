//! Identifies processes of sessions whose agent was killed: the process that starts sessions learns
//! whose they are, and each session has it in its environment.
//!
//! A mark names the agent's directory and the agent, so that neither the sessions of another job nor those
//! of an agent that lives are taken for left ones.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::descendants::{below, children, named, rooted_in};
use super::{Process, all};

/// First argument of the process that starts sessions; the second is the mark.
pub const INIT: &str = "__session";

/// Variable of a session.
pub const VARIABLE: &str = "IMS_JOB_SESSION";

/// Device and inode of the agent's directory; number and start time of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    place: (u64, u64),
    agent: (i32, u64),
}

/// The mark of what this process starts for the job in `directory`.
pub fn ours(directory: &Path) -> io::Result<String> {
    let (device, inode) = place(directory)?;
    let me = std::process::id() as i32;
    let started = Process::read(me).ok_or(io::ErrorKind::NotFound)?.start_time;
    Ok(format!("{device}:{inode}:{me}:{started}"))
}

/// Processes of sessions of the job in `directory`, whose agent has ended, in no particular order. `root`
/// is the image root: what has it as `/` counts as well.
///
/// A process that has hidden its mark, the parents that had one and its root is missed.
pub fn survivors(directory: &Path, root: &Path) -> Vec<Process> {
    let Ok(place) = place(directory) else { return Vec::new() };
    let (mut found, mut in_use) = (Vec::new(), Vec::new());
    for process in all().into_iter().filter(Process::runs) {
        match Mark::of(&process).filter(|mark| mark.place == place) {
            Some(mark) if mark.agent_lives() => in_use.push(process.pid),
            Some(_) => found.push(process.pid),
            None => {}
        }
    }
    found.extend(rooted_in(root).iter().map(|process| process.pid));
    let table = all();
    let mut spared = with_descendants(&table, in_use);
    spared.extend(ancestors(&table));
    let found = with_descendants(&table, found);
    let is_left =
        |process: &Process| found.contains(&process.pid) && !spared.contains(&process.pid);
    named(table.into_iter().filter(Process::runs).filter(is_left).collect())
}

fn place(directory: &Path) -> io::Result<(u64, u64)> {
    let found = fs::metadata(directory)?;
    Ok((found.dev(), found.ino()))
}

fn with_descendants(table: &[Process], pids: Vec<i32>) -> HashSet<i32> {
    let mut all: HashSet<i32> = pids.iter().copied().collect();
    all.extend(below(&mut children(table.to_vec()), pids).iter().map(|process| process.pid));
    all
}

/// This process and those that it was started by.
fn ancestors(table: &[Process]) -> HashSet<i32> {
    let mut found = HashSet::new();
    let mut next = Some(std::process::id() as i32);
    while let Some(pid) = next.filter(|pid| found.insert(*pid)) {
        next = table.iter().find(|process| process.pid == pid).map(|process| process.parent);
    }
    found
}

impl Mark {
    fn of(process: &Process) -> Option<Mark> {
        if let [_, first, mark @ ..] = process.arguments().as_slice()
            && first == INIT.as_bytes()
        {
            return Mark::parse(mark.first()?);
        }
        process.environment().iter().find_map(|entry| {
            Mark::parse(entry.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"=")?)
        })
    }

    fn parse(text: &[u8]) -> Option<Mark> {
        let mut numbers = std::str::from_utf8(text).ok()?.split(':');
        let mut next = || numbers.next()?.parse::<u64>().ok();
        let place = (next()?, next()?);
        let agent = (i32::try_from(next()?).ok()?, next()?);
        Some(Mark { place, agent })
    }

    fn agent_lives(&self) -> bool {
        let (pid, started) = self.agent;
        Process::read(pid).is_some_and(|agent| agent.runs() && agent.start_time == started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    fn marked(mark: &str, script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]).env(VARIABLE, mark).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Read::read(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        child
    }

    #[test]
    fn only_sessions_of_this_directory_whose_agent_has_ended_are_left() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mark = ours(dir.path()).unwrap();
        // This agent, but as if its number had been another process's before.
        let dead = |mark: &str| format!("{}:1", mark.rsplit_once(':').unwrap().0);
        let script = "env -i sleep 600 & echo; wait";
        let mut shells = [
            marked(&dead(&mark), script),
            marked(&mark, script),
            marked(&dead(&ours(other.path()).unwrap()), script),
        ];
        let found = survivors(dir.path(), &dir.path().join("no-root"));
        let pids = shells.each_ref().map(|child| child.id() as i32);
        for process in below(&mut super::children(all()), pids.to_vec()) {
            process.signal(nix::sys::signal::Signal::SIGKILL);
        }
        for child in &mut shells {
            // Its own child has ended, so that it does.
            child.wait().unwrap();
        }
        let has = |pid: i32| found.iter().any(|process| process.pid == pid);
        assert_eq!(pids.map(has), [true, false, false], "{found:?}");
        // The child that hides its mark goes with its parent.
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
