//! Who descends from a process, by `/proc`: used to find and name what sessions left running.

use std::collections::HashMap;
use std::fs;

use super::{Process, all};

/// All live processes below `ancestor`, in no particular order; zombies are not live. Their names are
/// command lines, as far as they have one; shortened.
pub fn descendants(ancestor: i32) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in all().into_iter().filter(Process::runs) {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut next = vec![ancestor];
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            next.push(child.pid);
            found.push(Process { name: command_line(child.pid).unwrap_or(child.name), ..child });
        }
    }
    found
}

fn command_line(pid: i32) -> Option<String> {
    const SHOWN: usize = 120;
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&line).replace('\0', " ");
    let text: String = text.trim().chars().take(SHOWN).collect();
    Some(text).filter(|text| !text.is_empty())
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
        sleeper.signal(nix::sys::signal::Signal::SIGKILL);
        // The shell waits for it, so this ends.
        assert!(shell.wait().unwrap().success());
    }
}
