//! The descendants of a process, from `/proc`: used to find and report what sessions left running.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{OwnChild, Process, all};

/// All live processes below `ancestor`, in no particular order; zombies are not live. Their names are
/// command lines, as far as they have one; shortened.
pub fn descendants(ancestor: i32) -> Vec<Process> {
    named(below(&mut children(all()), vec![ancestor]))
}

/// The live processes that this one has inherited, as a subreaper or as PID 1, and all below them; named
/// as by [`descendants`].
///
/// A child is inherited if it belongs to another session than this process, and nobody has registered it:
/// what this program starts for itself stays in its session, or is registered.
pub fn inherited() -> Vec<Process> {
    named(inherited_by(std::process::id() as i32, all()))
}

/// The live processes that have the directory `root` itself as `/`, as far as they may be looked at.
pub fn rooted_in(root: &Path) -> Vec<Process> {
    let identity = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    let Some(root) = identity(root) else { return Vec::new() };
    // By identity: of a process in another mount namespace the path says nothing.
    let is_rooted = |process: &Process| identity(&process.file("root")) == Some(root);
    named(all().into_iter().filter(Process::runs).filter(is_rooted).collect())
}

pub(super) type Children = HashMap<i32, Vec<Process>>;

pub(super) fn children(table: Vec<Process>) -> Children {
    let mut children = Children::new();
    for process in table.into_iter().filter(Process::runs) {
        children.entry(process.parent).or_default().push(process);
    }
    children
}

pub(super) fn below(children: &mut Children, mut next: Vec<i32>) -> Vec<Process> {
    let mut found = Vec::new();
    while let Some(pid) = next.pop() {
        let of_this_one = children.remove(&pid).unwrap_or_default();
        next.extend(of_this_one.iter().map(|child| child.pid));
        found.extend(of_this_one);
    }
    found
}

fn inherited_by(me: i32, table: Vec<Process>) -> Vec<Process> {
    let Some(session) = table.iter().find(|it| it.pid == me).map(|it| it.session) else {
        return Vec::new();
    };
    let mut children = children(table);
    let mut found = children.remove(&me).unwrap_or_default();
    found.retain(|child| child.session != session && !OwnChild::is_registered(child.pid));
    let orphans = found.iter().map(|orphan| orphan.pid).collect();
    found.extend(below(&mut children, orphans));
    found
}

pub(super) fn named(processes: Vec<Process>) -> Vec<Process> {
    let named = |process: Process| Process {
        name: command_line(&process).unwrap_or(process.name),
        ..process
    };
    processes.into_iter().map(named).collect()
}

fn command_line(process: &Process) -> Option<String> {
    const SHOWN: usize = 120;
    let line = process.arguments().join(&b' ');
    let text = String::from_utf8_lossy(&line);
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
        // The shell may be quicker to speak than its child is to become `sleep`.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let sleeper = loop {
            let mut found = descendants(std::process::id() as i32).into_iter();
            match found.find(|process| process.name == "sleep 987") {
                Some(sleeper) => break sleeper,
                None => assert!(std::time::Instant::now() < deadline, "it is not found"),
            }
            std::thread::yield_now();
        };
        sleeper.signal(nix::sys::signal::Signal::SIGKILL);
        // The shell waits for it, so this ends.
        assert!(shell.wait().unwrap().success());
    }

    #[test]
    fn only_orphans_of_other_sessions_are_inherited() {
        let process = |pid: i32, parent, session, state| {
            let name = pid.to_string();
            Process { pid, parent, session, name, state, start_time: 0 }
        };
        // Beyond what the kernel gives, so that nothing of this test program has them.
        let (me, helper, init, orphan, child, dead, own) =
            (1 << 23, 1 << 24, 1 << 25, 1 << 26, 1 << 27, 1 << 28, 1 << 29);
        let table = vec![
            process(me, 1, 7, 'S'),
            process(helper, me, 7, 'S'),
            process(init, me, 7, 'S'),
            process(8, init, 8, 'S'),
            process(orphan, me, 9, 'S'),
            process(child, orphan, 9, 'T'),
            process(dead, me, 9, 'Z'),
            process(own, me, own, 'S'),
        ];
        let _registered = OwnChild::register(own as u32);
        let found: Vec<_> = inherited_by(me, table).iter().map(|found| found.pid).collect();
        assert_eq!(found, [orphan, child]);
    }

    #[test]
    fn who_has_a_directory_as_root_is_found_and_who_works_in_it_is_not() {
        let root = tempfile::tempdir().unwrap();
        // Not by this process: a child that another test forks meanwhile would have it open for writing.
        let mut copy = std::process::Command::new("cp");
        assert!(copy.arg("/bin/busybox").arg(root.path()).status().unwrap().success());
        let start = |command: &mut std::process::Command| {
            let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
            // It has said something: it runs what it was started for.
            std::io::Read::read(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
            child
        };
        let script = "echo; while :; do /busybox sleep 1; done";
        let mut inside = std::process::Command::new("chroot");
        let mut inside = start(inside.arg(root.path()).args(["/busybox", "sh", "-c", script]));
        let mut beside = std::process::Command::new("sh");
        let mut beside = start(beside.args(["-c", "echo; read line"]).current_dir(root.path()));
        let found: Vec<_> = rooted_in(root.path()).iter().map(|found| found.pid).collect();
        for child in [&mut inside, &mut beside] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(found.contains(&(inside.id() as i32)), "{found:?}");
        assert!(!found.contains(&(beside.id() as i32)), "{found:?}");
    }
}
