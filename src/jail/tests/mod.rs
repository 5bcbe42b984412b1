//! The jail for real: needs root with CAP_SYS_ADMIN and fails loudly without.

mod calls;
mod escape;
mod frozen;
mod machine;
mod network;
mod plain;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use super::*;
use linux::Signal;
use linux::pty::Pty;

/// An image root with a static busybox: a shell, ls, cat, mount and the rest.
pub(crate) struct Image(tempfile::TempDir);

impl Image {
    pub(crate) fn new() -> Image {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        for name in ["bin", "etc", "root", "tmp", "proc", "sys", "dev", "run"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
        // Not by this process: a child that another test forks meanwhile would have it open for
        // writing, and nobody can execute it as long.
        let mut copy = Command::new("cp");
        let copied = copy.arg("/bin/busybox").arg(dir.path().join("bin")).status();
        assert!(copied.unwrap().success(), "busybox (package busybox-static) is installed");
        let install = Command::new("chroot")
            .arg(dir.path())
            .args(["/bin/busybox", "--install", "-s", "/bin"])
            .status();
        assert!(install.unwrap().success());
        Image(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    fn options(&self) -> Options {
        Options { root: Some(self.path().to_owned()), ..Options::default() }
    }

    fn jail(&self) -> Jail {
        establish(self.options())
    }
}

fn establish(options: Options) -> Jail {
    let held = CapSet::effective().unwrap();
    assert!(held.has(CapSet::SYS_ADMIN), "this test needs CAP_SYS_ADMIN");
    let _logs =
        tracing::subscriber::set_default(tracing_subscriber::fmt().with_test_writer().finish());
    let jail = Jail::establish(Plan::new(options, held).unwrap()).unwrap();
    assert!(jail.description().contains("own mount"), "{}", jail.description());
    jail
}

fn spawn(jail: &Jail, program: Program) -> (Child, File, File, File) {
    let (stdin, to_stdin) = std::io::pipe().unwrap();
    let (from_stdout, stdout) = std::io::pipe().unwrap();
    let (from_stderr, stderr) = std::io::pipe().unwrap();
    let stdio = Stdio3::Pipes { stdin: stdin.into(), stdout: stdout.into(), stderr: stderr.into() };
    let child = jail.spawn(Spawn { program, env: vec![], stdio }).unwrap();
    let file = |fd: OwnedFd| File::from(fd);
    (child, file(to_stdin.into()), file(from_stdout.into()), file(from_stderr.into()))
}

fn wait(child: &mut Child) -> ExitStatus {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(child.wait()).unwrap()
}

/// Runs a command in the jail: its stdout, stderr and status.
fn run(jail: &Jail, command: &str) -> (String, String, ExitStatus) {
    let (mut child, stdin, mut stdout, mut stderr) = spawn(jail, Program::Command(command.into()));
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    stdout.read_to_string(&mut out).unwrap();
    stderr.read_to_string(&mut err).unwrap();
    (out, err, wait(&mut child))
}

/// Says what of a test was not tried, and why; past the harness, which shows nothing of a test that
/// passes.
fn left_out(what: &str, why: &str) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "LEFT OUT of {name}: {what}: {why}");
}

#[test]
fn a_command_runs_inside_with_its_environment_and_status() {
    let image = Image::new();
    let mut options = image.options();
    options.env = vec![("IMS_JOB_ID".into(), "j1".into())];
    let jail = establish(options);
    let (out, err, status) = run(
        &jail,
        "echo $HOME $USER $LOGNAME $SHELL $PATH $IMS_JOB_ID $SYSTEMD_OFFLINE; pwd; umask; exit 7",
    );
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(out, format!("/root root root /bin/sh {path} j1 1\n/root\n0022\n"), "{err}");
    assert_eq!(status.code(), Some(7));
    assert_eq!(jail.close(Duration::ZERO).processes, []);
}

#[test]
fn files_made_inside_are_seen_outside_and_nothing_else_is() {
    let image = Image::new();
    let jail = image.jail();
    let (_, err, status) = run(&jail, "touch /tmp/complete /run/x /dev/shm/y; ls / >/dev/null");
    assert!(status.success(), "{err}");
    assert!(image.path().join("tmp/complete").exists());
    drop(jail.close(Duration::ZERO));
    for name in ["proc", "sys", "dev", "run"] {
        let entries = fs::read_dir(image.path().join(name)).unwrap().count();
        assert_eq!(entries, 0, "{name} is empty in the tree");
    }
}

#[test]
fn a_terminal_controls_its_session() {
    let image = Image::new();
    let jail = image.jail();
    let Pty { master, slave, name } = jail.open_pty().unwrap();
    assert_eq!(name.to_str(), Some("/dev/pts/0"));
    let mut child = jail
        .spawn(Spawn { program: Program::LoginShell, env: vec![], stdio: Stdio3::Pty { slave } })
        .unwrap();
    let mut terminal = File::from(master);
    terminal.write_all(b"tty; echo $0; echo x > /dev/tty; exit 3\n").unwrap();
    let mut seen = Vec::new();
    let mut part = [0; 4096];
    // EIO: the other side is closed.
    while let Ok(count @ 1..) = terminal.read(&mut part) {
        seen.extend_from_slice(&part[..count]);
    }
    let seen = String::from_utf8_lossy(&seen);
    assert!(seen.contains("\r\n/dev/pts/0\r\n-sh\r\nx\r\n"), "{seen}");
    assert_eq!(wait(&mut child).code(), Some(3));
    jail.close(Duration::ZERO);
}

#[test]
fn a_missing_shell_is_told_by_name() {
    let image = Image::new();
    fs::write(image.path().join("etc/passwd"), "root:x:0:0:root:/root:/bin/zsh\n").unwrap();
    let jail = image.jail();
    let (_, writer) = std::io::pipe().unwrap();
    let fd = || writer.try_clone().unwrap().into();
    let stdio = Stdio3::Pipes { stdin: fd(), stdout: fd(), stderr: fd() };
    let refused = jail.spawn(Spawn { program: Program::LoginShell, env: vec![], stdio });
    let text = refused.unwrap_err().to_string();
    assert!(text.starts_with("/bin/zsh, the login shell of root in etc/passwd"), "{text}");
    jail.close(Duration::ZERO);
}

#[test]
fn what_is_left_running_is_ended_and_named() {
    let image = Image::new();
    let jail = image.jail();
    // One that obeys, one that does not; both orphans.
    let (mut child, stdin, mut stdout, _) = spawn(
        &jail,
        Program::Command(
            b"sleep 971 & (trap '' TERM HUP; echo; exec sleep 972) & sleep 0.1; exit".into(),
        ),
    );
    stdout.read_exact(&mut [0]).unwrap();
    assert!(wait(&mut child).success());
    drop(stdin);
    let left = jail.close(Duration::from_millis(200));
    let mut names: Vec<_> = left.processes.iter().map(|process| process.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["sleep 971", "sleep 972"]);
    assert_eq!(left.stuck, []);
    assert!(jail.open_pty().is_err(), "a closed jail takes no more");
}

#[test]
fn a_signal_reaches_the_whole_group() {
    let image = Image::new();
    let jail = image.jail();
    let (mut child, _stdin, mut stdout, _) =
        spawn(&jail, Program::Command(b"echo; sleep 973; echo not reached".into()));
    stdout.read_exact(&mut [0]).unwrap();
    child.signal(Signal::SIGTERM).unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&wait(&mut child)), Some(15));
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
    jail.close(Duration::ZERO);
}

#[test]
fn mount_points_that_the_image_lacks_are_not_left_in_it() {
    let image = Image::new();
    for name in ["proc", "sys", "run"] {
        fs::remove_dir(image.path().join(name)).unwrap();
    }
    let before = fs::metadata(image.path()).unwrap().modified().unwrap();
    let jail = image.jail();
    let (out, err, _) = run(&jail, "cat /proc/self/comm; touch /run/x; ls /sys/class >/dev/null");
    assert_eq!((out.as_str(), err.as_str()), ("cat\n", ""));
    assert!(jail.close(Duration::ZERO).additions.is_empty());
    for name in ["proc", "sys", "run"] {
        assert!(!image.path().join(name).exists());
    }
    assert_eq!(fs::metadata(image.path()).unwrap().modified().unwrap(), before);
}

#[test]
fn who_kills_init_ends_the_sessions_and_the_next_one_works() {
    let image = Image::new();
    let jail = image.jail();
    let (mut child, _stdin, mut stdout, _) = spawn(&jail, Program::Command(b"echo; cat".into()));
    stdout.read_exact(&mut [0]).unwrap();
    let init = jail.init().unwrap().line.pid;
    linux::process::signal(init, Signal::SIGKILL).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(runtime.block_on(child.wait()).is_err());
    assert_eq!(run(&jail, "echo again").0, "again\n");
    jail.close(Duration::ZERO);
}

#[test]
#[ignore = "a measurement: cargo test --lib -- --ignored --nocapture measures_a_session"]
fn measures_a_session() {
    let image = Image::new();
    let start = std::time::Instant::now();
    let exe = hardening::sealed_self_exe().unwrap();
    println!("sealed copy of the binary: {:?}", start.elapsed());
    drop(exe);
    let start = std::time::Instant::now();
    let jail = image.jail();
    println!("jail established: {:?}", start.elapsed());
    let start = std::time::Instant::now();
    const ROUNDS: u32 = 500;
    for _ in 0..ROUNDS {
        assert!(run(&jail, ":").2.success());
    }
    println!("one short command: {:?}", start.elapsed() / ROUNDS);
    let start = std::time::Instant::now();
    jail.close(Duration::ZERO);
    println!("jail closed: {:?}", start.elapsed());
}
