//! Runs an external command and waits for it; the only way in this program.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpid, getppid};
use tokio_util::sync::CancellationToken;

use super::OwnChild;
use crate::pty::{self, Pty, Window};

/// How long a cancellation may go unseen.
const POLL_MS: u16 = 100;

/// How much of stderr is kept for the error message.
const TAIL_LINES: usize = 20;

/// The longest line that is kept; a program that writes no line ends must not fill the memory.
const LINE_BYTES: usize = 4096;

/// Why a command did not come to a good end.
#[allow(missing_docs, reason = "the messages say what each means")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot start {program}{}", if_absent(.source))]
    Start { program: String, source: io::Error },
    #[error("cannot create namespaces for {program}; this needs CAP_SYS_ADMIN")]
    Isolate { program: String, source: io::Error },
    #[error("lost track of {program}")]
    Follow { program: String, source: io::Error },
    #[error("{program} failed ({status}){}", with_colon(.stderr))]
    Failed { program: String, status: ExitStatus, stderr: String },
    #[error("{program} was cancelled")]
    Cancelled { program: String },
    #[error("{program} did not finish within {} s and was killed", .limit.as_secs())]
    TimedOut { program: String, limit: Duration },
}

fn if_absent(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::NotFound { "; is it installed?" } else { "" }
}

fn with_colon(stderr: &str) -> String {
    if stderr.is_empty() { String::new() } else { format!(": {stderr}") }
}

/// What is left of a command that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The last lines of stderr: warnings.
    pub stderr: String,
}

/// Runs `command` to its end.
///
/// Every line of its stdout goes to `on_line`; a carriage return ends a line too, so that progress
/// bars can be followed. The child gets no stdin, a process group of its own, and is killed when
/// the calling thread or process dies or `cancel` is cancelled. Blocks; has no deadline but
/// `cancel`.
pub fn run(
    command: &mut Command,
    cancel: &CancellationToken,
    mut on_line: impl FnMut(&str),
) -> Result<Output, Error> {
    command.stdout(Stdio::piped());
    run_to_end(command, None, Stop { cancel, limit: None }, &mut on_line)
}

/// Like [`run`]; killed when `limit` has passed.
pub fn run_within(
    limit: Duration,
    command: &mut Command,
    cancel: &CancellationToken,
    mut on_line: impl FnMut(&str),
) -> Result<Output, Error> {
    command.stdout(Stdio::piped());
    run_to_end(command, None, Stop { cancel, limit: Some(limit) }, &mut on_line)
}

/// Like [`run`], with a terminal of 80 columns as stdout: some programs hardly report their
/// progress without one. Where there are no terminals they get a pipe.
pub fn run_on_terminal(
    command: &mut Command,
    cancel: &CancellationToken,
    mut on_line: impl FnMut(&str),
) -> Result<Output, Error> {
    let master = match terminal() {
        Ok(Pty { master, slave, .. }) => {
            command.stdout(slave);
            Some(File::from(master))
        }
        Err(error) => {
            tracing::debug!(%error, "no terminal for the output of a program");
            command.stdout(Stdio::piped());
            None
        }
    };
    run_to_end(command, master, Stop { cancel, limit: None }, &mut on_line)
}

fn terminal() -> io::Result<Pty> {
    let pty = pty::open(Path::new("/dev/ptmx"))?;
    pty::resize(&pty.master, Window { columns: 80, rows: 24, ..Window::default() })?;
    Ok(pty)
}

/// What ends a command before its own end.
struct Stop<'a> {
    cancel: &'a CancellationToken,
    limit: Option<Duration>,
}

fn run_to_end(
    command: &mut Command,
    master: Option<File>,
    stop: Stop,
    on_line: &mut dyn FnMut(&str),
) -> Result<Output, Error> {
    let program = program(command);
    tracing::debug!(argv = ?argv(command), "running");
    let mut child =
        start(command).map_err(|source| Error::Start { program: program.clone(), source })?;
    let _own = OwnChild::register(child.id());
    let stdout = master.unwrap_or_else(|| {
        File::from(OwnedFd::from(child.stdout.take().expect("stdout was asked for")))
    });
    match follow(&mut child, stdout, &stop, on_line) {
        Ok(Ending::Exited(status, stderr)) if status.success() => Ok(Output { stderr }),
        Ok(Ending::Exited(status, stderr)) => Err(Error::Failed { program, status, stderr }),
        Ok(Ending::Cancelled) => {
            kill(&mut child);
            Err(Error::Cancelled { program })
        }
        Ok(Ending::TimedOut(limit)) => {
            kill(&mut child);
            Err(Error::TimedOut { program, limit })
        }
        Err(source) => {
            kill(&mut child);
            Err(Error::Follow { program, source })
        }
    }
}

pub(super) fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn argv(command: &Command) -> Vec<String> {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

fn start(command: &mut Command) -> io::Result<Child> {
    let parent = getpid();
    command.stdin(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe calls are
    // allowed: it makes two plain system calls and allocates nothing. `CommandExt` has no safe way
    // to have the child die with us.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before the call above could see it. To the first process of
            // a pid namespace it has no number.
            let seen = getppid();
            if seen == parent || seen.as_raw() == 0 { Ok(()) } else { Err(Errno::ESRCH.into()) }
        });
    }
    command.spawn()
}

fn kill(child: &mut Child) {
    let group = Pid::from_raw(i32::try_from(child.id()).expect("a process id fits in pid_t"));
    // The child is not waited for yet, so its id cannot belong to anybody else.
    if let Err(error) = killpg(group, Signal::SIGKILL) {
        tracing::debug!(%error, "killing the process group failed");
        let _ = child.kill();
    }
    let _ = child.wait();
}

enum Ending {
    Exited(ExitStatus, String),
    Cancelled,
    TimedOut(Duration),
}

fn follow(
    child: &mut Child,
    mut stdout: File,
    stop: &Stop,
    on_line: &mut dyn FnMut(&str),
) -> io::Result<Ending> {
    let mut stderr = child.stderr.take().expect("stderr was asked for");
    let (mut out_lines, mut err_lines) = (Lines::default(), Lines::default());
    let mut tail = VecDeque::new();
    let mut open = [true, true];
    let started = Instant::now();
    loop {
        if stop.cancel.is_cancelled() {
            return Ok(Ending::Cancelled);
        }
        if let Some(limit) = stop.limit.filter(|limit| started.elapsed() >= *limit) {
            return Ok(Ending::TimedOut(limit));
        }
        // Asked before the pipes: what the child wrote before it ended is then read below.
        let status = child.try_wait()?;
        let ready = readable(&stdout, &stderr, open, status.is_some())?;
        if ready[0] {
            open[0] = out_lines.read_from(&mut stdout, &mut |line| on_line(line))?;
        }
        if ready[1] {
            open[1] = err_lines.read_from(&mut stderr, &mut |line| keep(&mut tail, line))?;
        }
        // A grandchild may hold the pipes open for ever: the child's end is the end.
        if let (Some(status), [false, false]) = (status, ready) {
            out_lines.flush(&mut |line| on_line(line));
            err_lines.flush(&mut |line| keep(&mut tail, line));
            return Ok(Ending::Exited(status, Vec::from(tail).join("\n")));
        }
    }
}

fn keep(tail: &mut VecDeque<String>, line: &str) {
    if tail.len() == TAIL_LINES {
        tail.pop_front();
    }
    tail.push_back(line.into());
}

/// Which of the two pipes can be read now, end of file included; waits for it unless `ended`.
fn readable(
    stdout: &impl AsFd,
    stderr: &impl AsFd,
    open: [bool; 2],
    ended: bool,
) -> io::Result<[bool; 2]> {
    let events = |open| if open { PollFlags::POLLIN } else { PollFlags::empty() };
    let mut fds = [
        PollFd::new(stdout.as_fd(), events(open[0])),
        PollFd::new(stderr.as_fd(), events(open[1])),
    ];
    let timeout = if ended { PollTimeout::ZERO } else { PollTimeout::from(POLL_MS) };
    // A pipe at its end is reported at once whatever is asked for: do not spin on it.
    let watched: &mut [PollFd] = match open {
        [true, true] => &mut fds,
        [true, false] => &mut fds[..1],
        [false, true] => &mut fds[1..],
        [false, false] => &mut [],
    };
    match poll(watched, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let ready = |index: usize| open[index] && fds[index].any().unwrap_or(false);
    Ok([ready(0), ready(1)])
}

/// Cuts a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Reads once; false at the end of the stream.
    pub fn read_from(
        &mut self,
        stream: &mut impl Read,
        on_line: &mut dyn FnMut(&str),
    ) -> io::Result<bool> {
        let mut buffer = [0; 8192];
        let count = match stream.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            // A terminal that nobody has open any more.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => 0,
            Err(error) => return Err(error),
        };
        for byte in &buffer[..count] {
            match byte {
                b'\n' | b'\r' => self.flush(on_line),
                _ if self.partial.len() < LINE_BYTES => self.partial.push(*byte),
                _ => {}
            }
        }
        Ok(count > 0)
    }

    /// Gives the line that the stream has not ended.
    pub fn flush(&mut self, on_line: &mut dyn FnMut(&str)) {
        let line = String::from_utf8_lossy(&self.partial);
        if !line.trim().is_empty() {
            on_line(line.trim_end());
        }
        self.partial.clear();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn sh(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_and_carriage_returns_reach_the_callback_and_warnings_the_caller() {
        let mut lines = Vec::new();
        let script = "printf 'a\\rb\\n\\nlast'; echo careful >&2";
        let output =
            run(&mut sh(script), &CancellationToken::new(), |line| lines.push(line.to_owned()))
                .unwrap();
        assert_eq!(lines, ["a", "b", "last"]);
        assert_eq!(output.stderr, "careful");
    }

    #[test]
    fn a_program_that_asks_for_a_terminal_gets_one() {
        let mut lines = Vec::new();
        let script = "test -t 1 && stty size <&1; printf 'a\\rb\\n'; exit 0";
        run_on_terminal(&mut sh(script), &CancellationToken::new(), |line| {
            lines.push(line.to_owned());
        })
        .unwrap();
        assert_eq!(lines, ["24 80", "a", "b"]);
    }

    #[test]
    fn a_failure_says_status_and_the_end_of_stderr() {
        let script = "for i in $(seq 100); do echo line $i >&2; done; exit 3";
        let error = run(&mut sh(script), &CancellationToken::new(), |_| {}).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("line 100"), "{text}");
        assert!(!text.contains("line 80\n"), "{text}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program"), &CancellationToken::new(), |_| {})
            .unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }

    #[test]
    fn cancellation_kills_the_whole_group_and_waits() {
        let cancel = CancellationToken::new();
        let mut pids = Vec::new();
        let error = run(&mut sh("echo $$; sleep 600 & echo $!; wait"), &cancel, |line| {
            pids.push(line.parse::<i32>().unwrap());
            if pids.len() == 2 {
                cancel.cancel();
            }
        })
        .unwrap_err();
        assert!(matches!(error, Error::Cancelled { .. }));
        let deadline = Instant::now() + Duration::from_secs(10);
        while pids.iter().any(|pid| crate::process::Process::read(*pid).is_some_and(|p| p.runs())) {
            assert!(Instant::now() < deadline, "still running: {pids:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_command_that_does_not_end_is_ended() {
        let limit = Duration::from_millis(200);
        let error = run_within(limit, &mut sh("sleep 600"), &CancellationToken::new(), |_| {});
        assert!(matches!(error, Err(Error::TimedOut { .. })), "{error:?}");
        run_within(Duration::from_secs(60), &mut sh(":"), &CancellationToken::new(), |_| {})
            .unwrap();
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipes_open_does_not_hold_us_up() {
        let mut pid = 0;
        let start = Instant::now();
        run(&mut sh("sleep 60 & echo $!"), &CancellationToken::new(), |line| {
            pid = line.parse().unwrap();
        })
        .unwrap();
        assert!(start.elapsed() < Duration::from_secs(30));
        nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn output_is_bounded_in_memory_when_there_are_no_line_ends() {
        let mut longest = 0;
        run(&mut sh("head -c 3000000 /dev/zero | tr '\\0' x"), &CancellationToken::new(), |line| {
            longest = longest.max(line.len());
        })
        .unwrap();
        assert_eq!(longest, LINE_BYTES);
    }
}
