//! Who descends from a process, by `/proc`: used to find and name what sessions left running.

use std::collections::HashMap;
use std::fs;
use std::io;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process as the log names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    /// The command line, or the kernel's name for it; shortened.
    pub name: String,
}

/// All live processes below `ancestor`, in no particular order; zombies are not live.
pub fn descendants(ancestor: i32) -> io::Result<Vec<Process>> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that ended meanwhile is no descendant any more.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        if let Some((parent, state)) = parent_and_state(&stat)
            && state != 'Z'
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![ancestor];
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            found.push(Process { pid: child, name: name(child) });
            next.push(child);
        }
    }
    Ok(found)
}

/// Fields 4 and 3 of proc_pid_stat(5); the name before them may hold blanks and parentheses.
fn parent_and_state(stat: &str) -> Option<(i32, char)> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut fields = after.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}

fn name(pid: i32) -> String {
    const SHOWN: usize = 120;
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&line).replace('\0', " ");
    let text = match text.trim() {
        "" => fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default(),
        text => text.to_owned(),
    };
    text.trim().chars().take(SHOWN).collect()
}

/// Sends a signal; that the process ended meanwhile is no error.
pub fn signal(process: &Process, signal: Signal) {
    let _ = kill(Pid::from_raw(process.pid), signal);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse() {
        assert_eq!(parent_and_state("7 (a) R 9 (b)) S 42 7 7 0"), Some((42, 'S')));
        assert_eq!(parent_and_state("junk"), None);
    }

    #[test]
    fn grandchildren_are_found_and_named() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 987 & echo; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read(shell.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let found = descendants(std::process::id() as i32).unwrap();
        let sleeper = found.iter().find(|process| process.name == "sleep 987").unwrap();
        signal(sleeper, Signal::SIGKILL);
        // The shell waits for it, so this ends.
        assert!(shell.wait().unwrap().success());
    }
}
