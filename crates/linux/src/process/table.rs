//! The process table, from `/proc` (proc(5)).

use std::io;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

/// One process as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: i32,
    /// The number of its parent; 0 if that is outside of the pid namespace.
    pub parent: i32,
    /// The leader of its session (setsid(2)).
    pub session: i32,
    /// The kernel's name of it, at most 15 bytes.
    pub name: String,
    /// One letter; `Z` is a zombie.
    pub state: char,
    /// Clock ticks after boot; together with `pid` it distinguishes a process from a later one.
    pub start_time: u64,
}

impl Process {
    /// The process `pid`, if there is one.
    pub fn read(pid: i32) -> Option<Self> {
        parse(pid, &String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/stat")).ok()?))
    }

    /// Sends a signal; that the process ended meanwhile is no error.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid), signal);
    }

    /// False for one that ended and was not waited for yet.
    pub fn runs(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.pid)
    }
}

/// Signals a process by its number, which must be known to be its own still.
pub fn signal(pid: i32, signal: Signal) -> io::Result<()> {
    Ok(kill(Pid::from_raw(pid), signal)?)
}

/// Signals a process group. It must be known that its leader was not waited for yet, or the number could be
/// another's by now.
pub fn signal_group(leader: Pid, signal: Signal) -> io::Result<()> {
    Ok(killpg(leader, signal)?)
}

/// All processes of this pid namespace.
pub fn all() -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| Process::read(entry.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// `pid (name) state ppid ...`, where the name may hold blanks and parentheses.
fn parse(pid: i32, stat: &str) -> Option<Process> {
    let (before, after) = stat.rsplit_once(')')?;
    let name = before.split_once('(')?.1.to_owned();
    let mut fields = after.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 6, behind the process group.
    let session = fields.nth(1)?.parse().ok()?;
    // Field 22.
    let start_time = fields.nth(15)?.parse().ok()?;
    Some(Process { pid, parent, session, name, state, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_and_blanks_are_read() {
        let stat = "42 (a) b (c) S 7 42 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9876 1 2 3";
        let process = parse(42, stat).unwrap();
        assert_eq!(process.name, "a) b (c");
        assert_eq!((process.state, process.parent), ('S', 7));
        assert_eq!((process.session, process.start_time), (41, 9876));
    }

    #[test]
    fn this_process_is_in_the_table() {
        let own = Process::read(std::process::id() as i32).unwrap();
        assert!(own.runs());
        assert!(all().iter().any(|process| process.start_time == own.start_time));
    }
}
