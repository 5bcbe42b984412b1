//! The first process of a session, from the fork by init to the exec of its program.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::parent_id;

use super::plan::Shape;
use super::socket;
use super::wire::{Bytes, ChildProgram, Fault, Setup};
use linux::exec::{self, SingleThreaded, Stdio};
use linux::{Errno, Pid, hardening, landlock, namespace};

/// The request of the agent.
pub struct Launch {
    pub program: ChildProgram,
    pub env: Vec<(Bytes, Bytes)>,
    pub home: Bytes,
    /// The terminal, or stdin, stdout and stderr.
    pub fds: Vec<OwnedFd>,
}

/// A session whose first process is init's child.
pub struct Session {
    pub id: u64,
    /// Until exec: ends with it, or brings what failed.
    pub launch: Option<File>,
}

impl Session {
    /// Reads how the launch went: `None` when the program runs. Blocks until that is known.
    pub fn finish_launch(&mut self) -> Option<Fault> {
        let mut report = Vec::new();
        let read = self.launch.take()?.read_to_end(&mut report);
        match read {
            Ok(0) => None,
            _ => Some(
                serde_json::from_slice(&report)
                    .unwrap_or_else(|_| Fault::of("start the session's process", Errno::EIO)),
            ),
        }
    }
}

/// Forks the session's first process. It reports through a pipe that exec closes.
pub fn start(
    single: &SingleThreaded,
    id: u64,
    launch: Launch,
    root: Option<&OwnedFd>,
    setup: &Setup,
) -> io::Result<(Pid, Session)> {
    let (reader, writer) = io::pipe()?;
    let init = std::process::id();
    match single.fork()? {
        Some(pid) => Ok((pid, Session { id, launch: Some(OwnedFd::from(reader).into()) })),
        None => {
            drop(reader);
            exec::exit_now(live(launch, init, root, setup, writer.into()))
        }
    }
}

/// The child's life: does not return to init's code. The result is its exit status.
fn live(launch: Launch, init: u32, root: Option<&OwnedFd>, setup: &Setup, report: OwnedFd) -> i32 {
    let Launch { program, env, home, fds } = launch;
    let stdio = match enter(fds, init, root, setup) {
        Ok(stdio) => stdio,
        Err(fault) => return report_fault(report, &fault),
    };
    match program {
        ChildProgram::Socket(task) => match socket::perform(task, stdio) {
            Ok(()) => 0,
            Err(fault) => report_fault(report, &fault),
        },
        ChildProgram::Sftp => match set_up_stdio(stdio, report, home) {
            Ok(report) => {
                drop(report);
                sftp_server::serve_stdio()
            }
            Err(_) => FAILED,
        },
        ChildProgram::Exec { path, argv } => match set_up_stdio(stdio, report, home) {
            Ok(report) => execute(path, argv, env, report),
            Err(_) => FAILED,
        },
    }
}

/// Moves stdio to its descriptors and changes to the home directory; returns the report at its new
/// number. There is no way to report a failure here: init sees the end of the pipe and then the status.
fn set_up_stdio(stdio: Stdio, report: OwnedFd, home: Bytes) -> io::Result<OwnedFd> {
    let report = exec::arrange_descriptors(stdio, report)?;
    go_home(&home.into_os());
    Ok(report)
}

/// Exit status of a process that never became its program.
const FAILED: i32 = 126;

fn report_fault(report: OwnedFd, fault: &Fault) -> i32 {
    // A closed pipe means that init has ended: there is no receiver.
    let _ = serde_json::to_writer(File::from(report), fault);
    FAILED
}

fn enter(
    fds: Vec<OwnedFd>,
    init: u32,
    root: Option<&OwnedFd>,
    setup: &Setup,
) -> Result<Stdio, Fault> {
    let fault = |what: &'static str| move |error: io::Error| Fault::new(what, &error);
    hardening::die_with_parent().map_err(fault("bind the session to init"))?;
    // In a pid namespace init has no number, and the first process ends all with it.
    if setup.shape == Shape::Plain && parent_id() != init {
        return Err(Fault::of("be init's child", Errno::ESRCH));
    }
    if let Some(root) = root {
        namespace::change_root(root).map_err(fault("enter the image root"))?;
    }
    exec::become_root().map_err(fault("become root"))?;
    if setup.shape == Shape::Plain {
        setup.keep.keep_only().map_err(fault("drop capabilities"))?;
    }
    // Again for each session: it can then read what an earlier one created beside the secrets.
    landlock::hide(&setup.hide).map_err(fault("hide secrets"))?;
    let stdio = stdio(fds).map_err(fault("take stdio"))?;
    exec::lead_session(&stdio).map_err(fault("lead a session"))?;
    Ok(stdio)
}

/// As sshd: without a home the session continues in `/`, with a message.
fn go_home(home: &OsStr) {
    if let Err(error) = std::env::set_current_dir(home) {
        let home = home.display();
        let text = format!("Could not chdir to home directory {home}: {error}\r\n");
        let _ = io::stderr().write_all(text.as_bytes());
        // `/` is where a process that has just changed its root is; elsewhere it always works.
        let _ = std::env::set_current_dir("/");
    }
}

fn stdio(fds: Vec<OwnedFd>) -> io::Result<Stdio> {
    match <[OwnedFd; 3]>::try_from(fds) {
        Ok([stdin, stdout, stderr]) => Ok(Stdio::Pipes { stdin, stdout, stderr }),
        Err(mut fds) => match (fds.pop(), fds.is_empty()) {
            (Some(terminal), true) => Ok(Stdio::Terminal(terminal)),
            _ => Err(Errno::EBADF.into()),
        },
    }
}

/// Returns only where the program could not be executed. If a command is too long, the user gets
/// the error as from sshd: on standard error, with the status 1.
fn execute(path: Bytes, argv: Vec<Bytes>, env: Vec<(Bytes, Bytes)>, report: OwnedFd) -> i32 {
    let env: Vec<(OsString, OsString)> =
        env.into_iter().map(|(name, value)| (name.into_os(), value.into_os())).collect();
    let shown = String::from_utf8_lossy(&path.0).into_owned();
    let strings: Result<Vec<CString>, _> =
        argv.into_iter().map(|argument| CString::new(argument.0)).collect();
    let (Ok(path), Ok(argv)) = (CString::new(path.0), strings) else {
        let what = format!("execute {shown}: a NUL in the command");
        return report_fault(report, &Fault::of(what, Errno::EINVAL));
    };
    let error = exec::exec(&path, &argv, &super::env::to_strings(&env));
    if linux::errno_of(&error) != Some(Errno::E2BIG) {
        return report_fault(report, &Fault::new(format!("execute {shown}"), &error));
    }
    let _ = io::stderr().write_all(format!("{shown}: {}\n", Errno::E2BIG.desc()).as_bytes());
    1
}
