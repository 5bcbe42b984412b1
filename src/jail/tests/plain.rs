//! The jail without CAP_SYS_ADMIN, as in a container with the runtime's default capabilities.
//!
//! Capabilities belong to threads: each test gives them up in a thread of its own, and the jail's
//! init inherits what is left.

use super::*;
use linux::capability::CapSet;
use linux::testing::forget_landlock;

/// What a container runtime gives by default.
fn container() -> CapSet {
    CapSet::CHOWN
        .with(CapSet::DAC_OVERRIDE)
        .with(CapSet::FOWNER)
        .with(CapSet::FSETID)
        .with(CapSet::KILL)
        .with(CapSet::SETGID)
        .with(CapSet::SETUID)
        .with(CapSet::SETPCAP)
        .with(CapSet::NET_BIND_SERVICE)
        .with(CapSet::NET_RAW)
        .with(CapSet::SYS_CHROOT)
        .with(CapSet::MKNOD)
        .with(CapSet::AUDIT_WRITE)
        .with(CapSet::SETFCAP)
}

fn in_a_container(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        container().keep_only().unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn establish_plain(options: Options) -> Jail {
    let held = CapSet::effective().unwrap();
    assert!(!held.has(CapSet::SYS_ADMIN));
    let jail = Jail::establish(Plan::new(options, held).unwrap()).unwrap();
    assert!(jail.description().contains("no CAP_SYS_ADMIN"), "{}", jail.description());
    jail
}

#[test]
fn sessions_live_in_a_chroot_that_holds() {
    let image = Image::new();
    in_a_container(move || {
        let jail = establish_plain(image.options());
        let (out, err, status) =
            run(&jail, "ls /; chroot /tmp /x; mknod /tmp/disk b 254 0; exit 4");
        assert_eq!(out, "bin\ndev\netc\nproc\nroot\nrun\nsys\ntmp\n");
        assert!(
            err.contains("chroot: can't change root directory to '/tmp': Operation not permitted"),
            "{err}"
        );
        assert!(err.contains("mknod: /tmp/disk: Operation not permitted"), "{err}");
        assert_eq!(status.code(), Some(4));
        let (mut child, stdin, stdout, _) = spawn(&jail, Program::Sftp);
        let mut client = sftp_server::testing::Client::new(stdin, stdout);
        assert!(client.stat("/etc/passwd").is_some() && client.stat("/var/tmp").is_none());
        drop(client);
        assert!(wait(&mut child).success());
        assert_eq!(jail.close(Duration::ZERO).processes, []);
    });
}

#[test]
fn orphans_come_to_init_and_are_ended() {
    let image = Image::new();
    in_a_container(move || {
        let jail = establish_plain(image.options());
        let command = b"(sleep 981 >&- 2>&- &) ; (setsid sleep 982 >&- 2>&- &) ; exit 5".to_vec();
        let (mut child, ..) = spawn(&jail, Program::Command(command));
        assert_eq!(wait(&mut child).code(), Some(5));
        let left = jail.close(Duration::from_secs(5));
        // Named by what they were about to run, or by what they run.
        assert_eq!(left.processes.len(), 2, "{:?}", left.processes);
        assert!(left.processes.iter().all(|process| process.name.contains("sleep 98")));
        assert_eq!(left.stuck, []);
    });
}

#[test]
fn a_terminal_works_there_too() {
    let image = Image::new();
    in_a_container(move || {
        let jail = establish_plain(image.options());
        let Pty { master, slave, .. } = jail.open_pty().unwrap();
        let stdio = Stdio3::Pty { slave };
        let program = Program::Command(b"test -t 0 && test -t 2 && exit 6".to_vec());
        let mut child = jail.spawn(Spawn { program, env: vec![], stdio }).unwrap();
        assert_eq!(wait(&mut child).code(), Some(6));
        drop(master);
        jail.close(Duration::ZERO);
    });
}

#[test]
fn devices_are_there_while_it_lasts_and_not_in_the_tree() {
    let image = Image::new();
    let dev = image.path().join("dev");
    fs::write(dev.join("zero"), "the image's own").unwrap();
    let before = fs::metadata(&dev).unwrap().modified().unwrap();
    in_a_container(move || {
        let jail = establish_plain(image.options());
        let command = "echo x > /dev/null; head -c 3 /dev/urandom | wc -c; ls /dev";
        let (out, err, _) = run(&jail, command);
        assert_eq!(out, "3\nfull\nnull\nrandom\ntty\nurandom\nzero\n", "{err}");
        assert!(jail.close(Duration::ZERO).additions.is_empty());
        let dev = image.path().join("dev");
        assert_eq!(fs::read_dir(&dev).unwrap().count(), 1);
        assert_eq!(fs::metadata(&dev).unwrap().modified().unwrap(), before);
    });
}

/// A directory that is a secret, as IMS's default job has it: not jailed, no CAP_SYS_ADMIN.
fn with_a_secret() -> (tempfile::TempDir, PathBuf, Options) {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let secret = dir.path().join("auth");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("client-secret"), "s3kr1t").unwrap();
    let options = Options { masks: vec![secret.clone()], ..Options::default() };
    (dir, secret, options)
}

#[test]
fn secrets_in_the_container_cannot_be_read() {
    let (dir, secret, options) = with_a_secret();
    in_a_container(move || {
        let jail = establish_plain(options);
        assert!(jail.description().contains("Landlock"), "{}", jail.description());
        let (place, secret) = (dir.path().display(), secret.display());
        let command = format!(
            "cd {secret}; cat client-secret; cat {secret}/client-secret; cat /proc/self/cwd/client-secret
             ln client-secret {place}/hard && cat {place}/hard
             mv client-secret {place}/moved && cat {place}/moved; ls {secret}
             echo x > {place}/new; cat {place}/new; exit 3"
        );
        let (out, err, status) = run(&jail, &command);
        assert!(!out.contains("s3kr1t"), "{out}{err}");
        assert_eq!(err.matches("Permission denied").count(), 5, "{out}{err}");
        assert_eq!(err.matches("Invalid cross-device link").count(), 1, "{out}{err}");
        assert_eq!(status.code(), Some(3));
        // Made beside a secret: its own session cannot read it, the next one can.
        assert_eq!(run(&jail, &format!("cat {place}/new")).0, "x\n");
        let lines = escape::python(
            &jail,
            &format!("attempt('open', lambda: open('{secret}/client-secret'))"),
        );
        assert_eq!(lines, ["open EACCES"]);
        jail.close(Duration::ZERO);
    });
}

#[test]
fn without_landlock_sessions_work_and_it_is_not_claimed() {
    let (_dir, secret, options) = with_a_secret();
    in_a_container(move || {
        forget_landlock().unwrap();
        let jail = establish_plain(options);
        assert!(!jail.description().contains("Landlock"), "{}", jail.description());
        let (out, err, status) = run(&jail, &format!("cat {}/client-secret", secret.display()));
        assert_eq!((out.as_str(), err.as_str(), status.code()), ("s3kr1t", "", Some(0)));
        jail.close(Duration::ZERO);
    });
}

#[test]
fn the_agent_cannot_be_looked_into_nor_signalled_nor_traced() {
    in_a_container(|| {
        // As an agent is.
        hardening::make_undumpable().unwrap();
        hardening::keep_own_limits();
        let jail = establish_plain(Options::default());
        let script = format!(
            r#"
import signal
agent, bystander = {}, {}
for pid in agent, bystander:
    attempt('signal', lambda: os.kill(pid, signal.SIGCONT))
    attempt('trace', lambda: call('ptrace', 16, pid, 0, 0))
    for name in 'environ', 'mem', 'maps':
        attempt(name, lambda: open('/proc/%d/%s' % (pid, name), 'rb').read(1))
    attempt('descriptors', lambda: os.readlink('/proc/%d/fd/0' % pid))
    attempt('root', lambda: os.listdir('/proc/%d/root/etc' % pid))
init = os.getppid()
attempt('trace init', lambda: call('ptrace', 16, init, 0, 0))
attempt('seize init', lambda: call('ptrace', 0x4206, init, 0, 0))
attempt('memory of init', lambda: open('/proc/%d/mem' % init, 'r+b'))
import resource
for pid in [init] + [int(thread) for thread in os.listdir('/proc/%d/task' % agent)]:
    try:
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        print('limit set')
    except OSError as error:
        assert error.errno == errno.EPERM
attempt('packets', lambda: socket.socket(socket.AF_PACKET))
attempt('own', lambda: call('ptrace', 0, 0, 0, 0))
status = open('/proc/self/status').read()
print(*[status.split(name)[1].split()[0] for name in ('NoNewPrivs:', 'Seccomp:')])
"#,
            std::process::id(),
            std::os::unix::process::parent_id(),
        );
        let lines = escape::python(&jail, &script);
        let expected = [
            "signal EPERM",
            "trace EPERM",
            "environ EACCES",
            "mem EACCES",
            "maps EACCES",
            "descriptors EACCES",
            "root EACCES",
        ];
        let held = [
            "trace init EPERM",
            "seize init EPERM",
            "memory of init EACCES",
            "packets EAFNOSUPPORT",
            "own got 0",
            "1 2",
        ];
        let both = [&expected[..], &expected, &held].concat();
        assert_eq!(lines, both);
        jail.close(Duration::ZERO);
    });
}

#[test]
fn a_chroot_gives_no_hold_on_agent_or_init() {
    let image = escape::HostImage::new();
    let root = Some(image.root());
    in_a_container(move || {
        hardening::make_undumpable().unwrap();
        hardening::keep_own_limits();
        let jail = establish_plain(Options { root, ..Options::default() });
        let script = format!(
            r#"
import resource
for pid in {}, os.getppid():
    attempt('trace', lambda: call('ptrace', 16, pid, 0, 0))
    try:
        resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        print('limit set')
    except OSError as error:
        print('limit', errno.errorcode[error.errno])
"#,
            std::process::id()
        );
        let lines = escape::python(&jail, &script);
        assert_eq!(lines, ["trace EPERM", "limit EPERM", "trace EPERM", "limit EPERM"]);
        jail.close(Duration::ZERO);
    });
    image.unmount();
}
