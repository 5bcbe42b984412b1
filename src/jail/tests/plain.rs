//! The jail without CAP_SYS_ADMIN, as in a container with the runtime's default capabilities.
//!
//! Capabilities belong to threads: each test gives them up in a thread of its own, and the jail's
//! init inherits what is left.

use super::*;
use crate::os::capability::CapSet;

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
        let mut client = crate::sftp::tests::Client::new(stdin, stdout);
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
