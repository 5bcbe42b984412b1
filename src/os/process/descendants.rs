//! Who descends from a process, by `/proc`: used to find and name what sessions left running.

use std::collections::HashMap;
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::process;

/// A process as the log names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    /// The command line, or the kernel's name for it; shortened.
    pub name: String,
}

/// All live processes below `ancestor`, in no particular order; zombies are not live.
pub fn descendants(ancestor: i32) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for process in process::all().iter().filter(|process| process.runs()) {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let mut found = Vec::new();
    let mut next = vec![ancestor];
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            found.push(Process { pid: child, name: name(child) });
            next.push(child);
        }
    }
    found
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
    fn grandchildren_are_found_and_named() {
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "sleep 987 & echo; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Read::read(shell.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        let found = descendants(std::process::id() as i32);
        let sleeper = found.iter().find(|process| process.name == "sleep 987").unwrap();
        signal(sleeper, Signal::SIGKILL);
        // The shell waits for it, so this ends.
        assert!(shell.wait().unwrap().success());
    }
}
