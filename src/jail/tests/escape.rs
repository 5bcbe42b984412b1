//! Ways out of a jail: each is tried from inside and must fail with the expected error.
//!
//! The image root is an overlay on this machine's own root, so that python3 is there to try with.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use super::*;
use linux::mount::{Mounted, MsFlags, detach, unmount};

/// An overlay on `/`, its changes on a tmpfs that is outside of it.
pub(super) struct HostImage {
    dir: tempfile::TempDir,
}

impl HostImage {
    pub(super) fn new() -> HostImage {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let mount = |kind: &str, point: &Path, options: Option<&str>| {
            let flags = MsFlags::empty();
            Mounted::new(kind, Path::new(kind), point, flags, options).unwrap().forget();
        };
        mount("tmpfs", dir.path(), None);
        for name in ["upper", "work", "root"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("secret"), "s3kr1t").unwrap();
        let place = dir.path().display();
        let options = format!("lowerdir=/,upperdir={place}/upper,workdir={place}/work");
        mount("overlay", &dir.path().join("root"), Some(&options));
        HostImage { dir }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn secret(&self) -> PathBuf {
        self.dir.path().join("secret")
    }

    /// Unmounts as the workspace does: fails if anything still holds it.
    pub(super) fn unmount(&self) {
        unmount(&self.root()).expect("nothing holds the overlay");
        unmount(self.dir.path()).expect("nothing holds its layers");
    }
}

impl Drop for HostImage {
    fn drop(&mut self) {
        // After a failed test; otherwise they are gone already.
        let _ = detach(&self.root());
        let _ = detach(self.dir.path());
    }
}

/// What the scripts have at hand: `attempt` prints a name and the errno's name, or what was got.
const PRELUDE: &str = r#"
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, act):
    try:
        result = act()
        print(name, 'got', result)
    except OSError as error:
        print(name, errno.errorcode.get(error.errno, error.errno))
def syscall(*arguments):
    result = libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result < 0:
        raise OSError(ctypes.get_errno(), 'refused')
    return result
def call(function, *arguments):
    if getattr(libc, function)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), function)
    return 0
"#;

/// Runs a script in the jail; its lines.
pub(super) fn python(jail: &Jail, script: &str) -> Vec<String> {
    let (mut child, mut stdin, mut stdout, mut stderr) =
        spawn(jail, Program::Command(b"exec python3 -".into()));
    stdin.write_all(PRELUDE.as_bytes()).unwrap();
    stdin.write_all(script.as_bytes()).unwrap();
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    stdout.read_to_string(&mut out).unwrap();
    stderr.read_to_string(&mut err).unwrap();
    assert!(wait(&mut child).success(), "{out}{err}");
    out.lines().map(str::to_owned).collect()
}

pub(super) fn host_jail(options: Options) -> (HostImage, Jail) {
    let image = HostImage::new();
    let root = Some(image.root());
    let jail = establish(Options { root, ..options });
    (image, jail)
}

#[test]
fn no_path_leads_to_the_outside() {
    let (image, jail) = host_jail(Options::default());
    let secret = image.secret();
    assert_eq!(fs::read(&secret).unwrap(), b"s3kr1t");
    let script = format!(
        r#"
secret = '{}'
attempt('plain', lambda: open(secret).read())
attempt('init root', lambda: open('/proc/1/root' + secret).read())
attempt('init root up', lambda: os.listdir('/proc/1/root/../..'))
attempt('init cwd', lambda: open('/proc/1/cwd' + secret).read())
os.mkdir('/tmp/deep')
os.chroot('/tmp/deep')
for _ in range(50):
    os.chdir('..')
os.chroot('.')
attempt('chroot in chroot', lambda: open(secret).read())
attempt('is still the jail', lambda: os.path.exists('/proc/1/root'))
"#,
        secret.display()
    );
    let lines = python(&jail, &script);
    assert_eq!(
        lines,
        [
            "plain ENOENT",
            "init root ENOENT",
            "init root up got []",
            "init cwd ENOENT",
            "chroot in chroot ENOENT",
            "is still the jail got True"
        ]
    );
    jail.close(Duration::ZERO);
    image.unmount();
}

#[test]
fn devices_of_the_machine_are_out_of_reach() {
    let (image, jail) = host_jail(Options::default());
    // A disk of this machine, and its memory.
    let disk = fs::metadata("/").map(|found| std::os::unix::fs::MetadataExt::dev(&found)).unwrap();
    let script = format!(
        r#"
import stat
for place in ['/tmp', '/dev', '/dev/shm', '/run', '/root']:
    for name, kind, number in [('disk', stat.S_IFBLK, {disk}), ('mem', stat.S_IFCHR, os.makedev(1, 1))]:
        path = place + '/' + name
        os.mknod(path, 0o600 | kind, number)
        attempt(path, lambda: open(path, 'rb').read(1))
os.mknod('/tmp/null', 0o666 | stat.S_IFCHR, os.makedev(1, 3))
attempt('null made', lambda: open('/tmp/null', 'rb').read(1))
attempt('null given', lambda: open('/dev/null', 'rb').read(1))
attempt('kcore', lambda: os.path.exists('/proc/kcore') and open('/proc/kcore', 'rb').read(1))
attempt('kmsg', lambda: open('/dev/kmsg', 'rb').read(1))
attempt('fuse', lambda: open('/dev/fuse', 'rb'))
print(' '.join(sorted(os.listdir('/dev'))))
"#
    );
    let lines = python(&jail, &script);
    let (made, rest) = lines.split_at(10);
    assert!(made.iter().all(|line| line.ends_with(" EACCES")), "{made:?}");
    // Not every kernel has it.
    let kcore = if Path::new("/proc/kcore").exists() { "kcore got b''" } else { "kcore got False" };
    assert_eq!(
        rest,
        [
            "null made EACCES",
            "null given got b''",
            kcore,
            "kmsg ENOENT",
            "fuse ENOENT",
            "disk fd full mem null ptmx pts random shm stderr stdin stdout tty urandom zero"
        ]
    );
    jail.close(Duration::ZERO);
    assert!(image.root().join("tmp/null").exists(), "nodes that packages make stay in the image");
    image.unmount();
}

#[test]
fn processes_outside_can_be_neither_seen_nor_signalled_nor_traced() {
    let (image, jail) = host_jail(Options::default());
    let agent = std::process::id();
    let script = format!(
        r#"
import signal
own = sorted(int(name) for name in os.listdir('/proc') if name.isdigit())
print(own[0], len(own) < 6, open('/proc/1/comm').read().strip())
attempt('environ of init', lambda: open('/proc/1/environ').read())
attempt('descriptors', lambda: sorted(os.listdir('/proc/self/fd'))[:-1])
attempt('init to the outside', lambda: [os.readlink('/proc/1/fd/' + n) for n in '12'])
outside = max(own) + 1000 if {agent} in own else {agent}
attempt('signal', lambda: os.kill(outside, signal.SIGTERM))
attempt('trace', lambda: call('ptrace', 16, outside, 0, 0))
attempt('see', lambda: os.listdir('/proc/%d' % outside))
os.kill(1, signal.SIGKILL)
attempt('init lives', lambda: open('/proc/1/comm').read().strip())
"#
    );
    let lines = python(&jail, &script);
    let comm = fs::read_to_string(format!("/proc/{}/comm", jail.init().unwrap().line.pid)).unwrap();
    assert_eq!(
        lines,
        [
            format!("1 True {}", comm.trim()).as_str(),
            "environ of init got ",
            "descriptors got ['0', '1', '2']",
            "init to the outside got ['/dev/null', '/dev/null']",
            "signal ESRCH",
            "trace ESRCH",
            "see ENOENT",
            format!("init lives got {}", comm.trim()).as_str(),
        ]
    );
    jail.close(Duration::ZERO);
    image.unmount();
}

#[test]
fn abstract_sockets_of_the_pod_are_out_of_reach() {
    let (image, jail) = host_jail(Options::default());
    if !jail.init().unwrap().notes.is_empty() {
        // Nothing to forbid it with; the log says so (docs/limits.md).
        left_out("abstract sockets", "the kernel is older than 6.12");
        return;
    }
    let name = format!("ims-job-agent-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let script = format!(
        "s = socket.socket(socket.AF_UNIX)\nattempt('abstract', lambda: s.connect('\\0{name}'))"
    );
    assert_eq!(python(&jail, &script), ["abstract EPERM"]);
    jail.close(Duration::ZERO);
    image.unmount();
}

#[test]
fn capabilities_are_those_of_building_an_image() {
    let (image, jail) = host_jail(Options::default());
    let (out, err, _) =
        run(&jail, "grep -E '^(Cap(Prm|Eff|Bnd)|NoNewPrivs|Seccomp):' /proc/self/status");
    // What container runtimes give by default, without NET_RAW; setuid programs work.
    let caps = "00000000a80405fb";
    let expected =
        format!("CapPrm:\t{caps}\nCapEff:\t{caps}\nCapBnd:\t{caps}\nNoNewPrivs:\t0\nSeccomp:\t2\n");
    assert_eq!(out, expected, "{err}");
    jail.close(Duration::ZERO);
    image.unmount();
}

#[test]
fn it_looks_like_a_chroot() {
    let (image, jail) = host_jail(Options::default());
    let script = r#"
from ansible.module_utils.facts.system.chroot import is_chroot
print(is_chroot())
a, b = os.stat('/'), os.stat('/proc/1/root/.')
print((a.st_dev, a.st_ino) != (b.st_dev, b.st_ino))
"#;
    assert_eq!(python(&jail, script), ["True", "True"]);
    jail.close(Duration::ZERO);
    image.unmount();
}

#[test]
fn sftp_sees_no_more_than_a_shell() {
    let (image, jail) = host_jail(Options::default());
    let (mut child, stdin, stdout, _) = spawn(&jail, Program::Sftp);
    let mut peer = sftp_server::testing::Client::new(stdin, stdout);
    let secret = image.secret();
    let secret = secret.to_str().unwrap();
    fs::create_dir(image.root().join("tmp/links")).unwrap();
    for path in [
        secret.to_owned(),
        format!("/../../..{secret}"),
        format!("/proc/1/root{secret}"),
        format!("/proc/self/root/..{secret}"),
        format!("/proc/self/cwd/../../..{secret}"),
    ] {
        assert_eq!(peer.stat(&path), None, "{path}");
    }
    peer.symlink(&format!("../../../../../..{secret}"), "/tmp/links/up");
    peer.symlink(secret, "/tmp/links/absolute");
    assert_eq!(peer.stat("/tmp/links/up"), None);
    assert_eq!(peer.stat("/tmp/links/absolute"), None);
    assert!(peer.stat("/etc/passwd").is_some());
    drop(peer);
    assert!(wait(&mut child).success());
    jail.close(Duration::ZERO);
    image.unmount();
}

#[test]
fn the_binary_that_sessions_run_from_cannot_be_changed() {
    let (image, jail) = host_jail(Options::default());
    let lines = python(&jail, "attempt('write', lambda: open('/proc/1/exe', 'r+b').write(b'x'))");
    assert!(
        ["write EPERM", "write ETXTBSY", "write EACCES"].contains(&lines[0].as_str()),
        "{lines:?}"
    );
    jail.close(Duration::ZERO);
    image.unmount();
}

#[test]
fn secrets_of_the_container_are_hidden_from_unjailed_sessions() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (folder, file) = (dir.path().join("folder"), dir.path().join("key"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("client-secret"), "s3kr1t").unwrap();
    fs::write(&file, "s3kr1t").unwrap();
    let missing = dir.path().join("missing");
    let masks = vec![folder.clone(), file.clone(), missing];
    let jail = establish(Options { masks, ..Options::default() });
    let script = format!(
        r#"
attempt('folder', lambda: os.listdir('{folder}'))
attempt('file', lambda: open('{file}').read())
attempt('make', lambda: open('{folder}/new', 'w'))
attempt('uncover', lambda: call('umount2', b'{folder}', 2))
attempt('remove', lambda: os.rename('{folder}', '{folder}2'))
attempt('init', lambda: os.listdir('/proc/1/root{folder}'))
attempt('disk', lambda: open('/dev/vda', 'rb'))
attempt('host', lambda: os.path.exists('/etc/passwd'))
open('{dir}/made', 'w').close()
"#,
        folder = folder.display(),
        file = file.display(),
        dir = dir.path().display(),
    );
    assert_eq!(
        python(&jail, &script),
        [
            "folder got []",
            "file got ",
            "make EROFS",
            "uncover EPERM",
            "remove EBUSY",
            "init got []",
            "disk ENOENT",
            "host got True"
        ]
    );
    jail.close(Duration::ZERO);
    assert!(dir.path().join("made").exists());
    assert_eq!(fs::read(folder.join("client-secret")).unwrap(), b"s3kr1t");
}

#[test]
fn the_user_of_a_dkms_job_may_mount_and_it_goes_with_the_jail() {
    let (image, jail) = host_jail(Options { dkms: true, ..Options::default() });
    let (out, err, status) = run(
        &jail,
        "mkdir /tmp/m && mount -t tmpfs x /tmp/m && touch /tmp/m/y && mount --bind /usr /mnt \
         && test -w /sys/kernel && insmod /none; ls /tmp/m",
    );
    assert_eq!((out.as_str(), status.code()), ("y\n", Some(0)), "{err}");
    let lines = python(&jail, "attempt('module', lambda: syscall(313, 0, b'', 0))");
    assert_eq!(lines, ["module EPERM"]);
    assert!(!image.root().join("tmp/m/y").exists());
    assert_eq!(jail.close(Duration::ZERO).mounts, ["/tmp/m (tmpfs)", "/mnt (overlay)"]);
    image.unmount();
}
