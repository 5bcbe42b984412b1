//! External commands that mount things: in a mount and a pid namespace of their own, so that neither a
//! mount nor a process outlives them.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tokio_util::sync::CancellationToken;

use super::run::{self, Error, Output, run};
use crate::exec::close_on_exec_from;

/// The kernel ends such a command, and not the agent, where memory runs out.
const OOM_SCORE: &[u8] = b"500";

/// Like [`run`], in a mount and a pid namespace of the command's own. Takes CAP_SYS_ADMIN.
///
/// The command is the first process of its namespace: with it everything ends that it has started,
/// however it ends. Its mounts are seen by nobody else, and go with its last process. Nothing that
/// this process has open is passed on.
pub fn run_isolated(
    command: &mut Command,
    cancel: &CancellationToken,
    on_line: impl FnMut(&str) + Send,
) -> Result<Output, Error> {
    isolate(command);
    let program = run::program(command);
    let failed = |source| Error::Isolate { program: program.clone(), source };
    std::thread::scope(|scope| {
        // A thread of its own: what it unshares holds for all its later children.
        let thread =
            std::thread::Builder::new().name("isolated".into()).spawn_scoped(scope, || {
                unshare(CloneFlags::CLONE_NEWPID).map_err(|errno| failed(errno.into()))?;
                run(command, cancel, on_line)
            });
        match thread.map_err(failed)?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn isolate(command: &mut Command) {
    const NONE: Option<&str> = None;
    let enter = || {
        // Only a wish: a container may forbid it.
        let _ = std::fs::File::options()
            .write(true)
            .open("/proc/self/oom_score_adj")
            .and_then(|mut file| file.write_all(OOM_SCORE));
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, NONE)?;
        close_on_exec_from(3)
    };
    // SAFETY: needed because namespaces must change between fork and exec. The closure makes system
    // calls only: it takes no lock and allocates nothing (all paths are shorter than the buffers on
    // the stack that std and nix use for them).
    unsafe { command.pre_exec(enter) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mountinfo;
    use crate::process::Process;
    use crate::process::run::tests::sh;
    use std::time::{Duration, Instant};

    #[test]
    fn the_command_is_the_first_process_and_its_status_and_lines_come_out() {
        let mut lines = Vec::new();
        let script = "echo $$; ls /proc | grep -c '^[0-9]'; cat /proc/1/oom_score_adj; exit 3";
        let result = run_isolated(&mut sh(script), &CancellationToken::new(), |line| {
            lines.push(line.to_owned());
        });
        assert!(matches!(result, Err(Error::Failed { status, .. }) if status.code() == Some(3)));
        assert_eq!(lines[0], "1");
        assert!(lines[1].parse::<u32>().unwrap() <= 4, "only its own processes: {lines:?}");
        assert_eq!(lines[2], "500");
    }

    #[test]
    fn a_kill_leaves_no_mount_and_no_process() {
        let dir = tempfile::tempdir().unwrap();
        let cancel = CancellationToken::new();
        let script = format!(
            "mount -t tmpfs none {0}; mount --bind /dev {0}/; setsid sleep 4711 & echo ready; wait",
            dir.path().display()
        );
        let error = run_isolated(&mut sh(&script), &cancel, |_| cancel.cancel()).unwrap_err();
        assert!(matches!(error, Error::Cancelled { .. }), "{error}");
        assert!(mountinfo::at_or_below(dir.path()).unwrap().is_empty());
        let sleeper = || {
            crate::process::all().into_iter().filter(Process::runs).find(|process| {
                let line = std::fs::read(format!("/proc/{}/cmdline", process.pid));
                line.is_ok_and(|line| line == b"sleep\x004711\0")
            })
        };
        // It left the process group, so only the end of the namespace ends it.
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Some(process) = sleeper() {
            assert!(Instant::now() < deadline, "still running: {process}");
            std::thread::yield_now();
        }
        std::fs::remove_dir(dir.path()).unwrap();
    }
}
