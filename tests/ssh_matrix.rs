//! The clients of the world that tests/ssh_clients.rs leaves: each moves real data. docs/ssh.md has the
//! table.

#[path = "support/server.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use support::{Lab, VENVS, output, text};
use tokio::process::Command;

/// Bytes without a pattern that is short.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A file of `megabytes` to carry about.
fn cargo(lab: &Lab, megabytes: usize) -> (PathBuf, Vec<u8>) {
    let (path, bytes) = (lab.path("cargo"), noise(megabytes << 20));
    std::fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

fn same(path: &Path, bytes: &[u8]) {
    assert!(std::fs::read(path).unwrap() == bytes, "{} differs", path.display());
}

async fn succeeds(command: &mut Command) -> String {
    let done = output(command).await;
    assert!(done.status.success(), "{command:?}: {}{}", text(&done.stdout), text(&done.stderr));
    text(&done.stdout)
}

/// Runs a script that is told port, key and directory.
async fn python(lab: &Lab, program: &str, script: &str) -> String {
    assert!(Path::new(program).exists(), "{program} is made by scripts/install test");
    let mut python = Command::new(program);
    python.args(["-c", script, &lab.port().to_string()]);
    succeeds(python.arg(lab.path("ecdsa")).arg(lab.dir.path())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn openssh_rekeys_every_megabyte_in_both_directions() {
    let lab = Lab::start().await;
    let (path, bytes) = cargo(&lab, 128);
    let mut command = lab.ssh(&["-oRekeyLimit=1M"]);
    let done = output(command.stdin(std::fs::File::open(path).unwrap()).arg("cat")).await;
    assert!(done.stdout == bytes, "{} bytes: {}", done.stdout.len(), text(&done.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn sftp_keeps_256_requests_in_flight() {
    let lab = Lab::start().await;
    let (path, bytes) = cargo(&lab, 32);
    let (there, back) = (lab.path("there"), lab.path("back"));
    let (path, there, back) = (path.display(), there.display(), back.display());
    std::fs::write(lab.path("batch"), format!("put {path} {there}\nget {there} {back}\n")).unwrap();
    let mut sftp = Command::new("sftp");
    sftp.args(["-R", "256"]).args(lab.options()).arg("-b").arg(lab.path("batch"));
    succeeds(sftp.arg("root@127.0.0.1")).await;
    same(&lab.path("back"), &bytes);
}

/// What every paramiko can.
const PARAMIKO: &str = r#"
import os, sys, paramiko
port, key, place = int(sys.argv[1]), sys.argv[2], sys.argv[3]
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect('127.0.0.1', port=port, username='root', look_for_keys=False, allow_agent=False,
               pkey=paramiko.ECDSAKey.from_private_key_file(key))
stdin, stdout, stderr = client.exec_command('cat; echo err >&2; exit 9')
data = os.urandom(4000000)
import threading
threading.Thread(target=lambda: (stdin.write(data), stdin.channel.shutdown_write())).start()
assert stdout.read() == data and stderr.read() == b'err\n'
assert stdout.channel.recv_exit_status() == 9
sftp = client.open_sftp()
open(place + '/from', 'wb').write(data)
sftp.put(place + '/from', place + '/there')
sftp.get(place + '/there', place + '/back')
assert open(place + '/back', 'rb').read() == data
sftp.mkdir(place + '/dir'); sftp.symlink('dir', place + '/link')
assert sftp.readlink(place + '/link') == 'dir' and 'link' in sftp.listdir(place)
sftp.chmod(place + '/there', 0o640); assert sftp.stat(place + '/there').st_mode & 0o777 == 0o640
sftp.posix_rename(place + '/there', place + '/from')
with sftp.open(place + '/from', 'r+') as file:
    file.seek(10); file.write(b'x' * 10); file.seek(10); assert file.read(3) == b'xxx'
print(paramiko.__version__)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn paramiko_old_and_new_run_commands_and_carry_files() {
    for (venv, version) in [("venv-2.11", "2.11."), ("venv", "")] {
        let lab = Lab::start().await;
        let said = python(&lab, &format!("{VENVS}/{venv}/bin/python"), PARAMIKO).await;
        assert!(said.starts_with(version), "{said}");
    }
}

const ASYNCSSH: &str = r#"
import asyncio, os, sys, asyncssh
port, key, place = int(sys.argv[1]), sys.argv[2], sys.argv[3]
async def main():
    async with asyncssh.connect('127.0.0.1', port=port, username='root', known_hosts=None,
                                client_keys=[key], agent_path=None) as connection:
        results = await asyncio.gather(*(connection.run('echo %d; exit %d' % (n, n)) for n in range(20)))
        assert [(r.stdout, r.exit_status) for r in results] == [('%d\n' % n, n) for n in range(20)]
        data = os.urandom(8000000)
        open(place + '/from', 'wb').write(data)
        async with connection.start_sftp_client() as sftp:
            await sftp.put(place + '/from', place + '/there')
            await sftp.get(place + '/there', place + '/back')
            assert (await sftp.statvfs(place)).bsize > 0
            assert 'there' in await sftp.listdir(place)
            # Which argument comes first it tells by the server's name.
            await sftp.symlink('target', place + '/link')
            assert await sftp.readlink(place + '/link') == 'target'
        assert open(place + '/back', 'rb').read() == data
        process = await connection.create_process('read x; echo got $x', term_type='vt100', term_size=(90, 20))
        process.stdin.write('line\n')
        assert 'got line' in await process.stdout.read()
        process = await connection.create_process('sleep 100')
        process.send_signal('TERM')
        await process.wait()
        assert process.exit_signal[0] == 'TERM', process.exit_signal
        listener = await connection.forward_local_port('127.0.0.1', 0, '127.0.0.1', port)
        reader, writer = await asyncio.open_connection('127.0.0.1', listener.get_port())
        assert (await reader.read(4)) == b'SSH-'
        writer.close()
asyncio.run(main())
"#;

#[tokio::test(flavor = "multi_thread")]
async fn asyncssh_works_in_parallel_on_one_connection() {
    let lab = Lab::start().await;
    python(&lab, &format!("{VENVS}/venv/bin/python"), ASYNCSSH).await;
}

const LIBSSH2: &str = r#"
import os, socket, sys
from ssh2.session import Session
from ssh2.sftp import LIBSSH2_FXF_READ, LIBSSH2_FXF_WRITE, LIBSSH2_FXF_CREAT
port, key, place = int(sys.argv[1]), sys.argv[2], sys.argv[3]
def read(source):
    data = b''
    while True:
        size, part = source.read(65536)
        if size <= 0: return data
        data += part
tcp = socket.create_connection(('127.0.0.1', port))
session = Session()
session.handshake(tcp)
session.userauth_publickey_fromfile('root', key)
channel = session.open_session()
channel.execute('cat; exit 7')
data = os.urandom(1000000)
sent = 0
channel.write(b'hello\n'); channel.send_eof()
assert read(channel) == b'hello\n'
channel.close(); channel.wait_closed()
assert channel.get_exit_status() == 7
sftp = session.sftp_init()
with sftp.open(place + '/there', LIBSSH2_FXF_WRITE | LIBSSH2_FXF_CREAT, 0o600) as file:
    for at in range(0, len(data), 30000): file.write(data[at:at + 30000])
with sftp.open(place + '/there', LIBSSH2_FXF_READ, 0) as file:
    assert read(file) == data
"#;

#[tokio::test(flavor = "multi_thread")]
async fn libssh2_runs_commands_and_carries_files() {
    let lab = Lab::start().await;
    python(&lab, &format!("{VENVS}/venv/bin/python"), LIBSSH2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rclone_syncs_both_ways() {
    let lab = Lab::start().await;
    let (_, bytes) = cargo(&lab, 20);
    for name in ["tree", "tree/sub"] {
        std::fs::create_dir(lab.path(name)).unwrap();
        std::fs::write(lab.path(name).join("file"), &bytes).unwrap();
    }
    let remote = |name: &str| {
        let key = lab.path("ed25519");
        let known = lab.path("known_hosts");
        format!(
            ":sftp,host=127.0.0.1,port={},user=root,key_file='{}',known_hosts_file='{}':{}",
            lab.port(),
            key.display(),
            known.display(),
            lab.path(name).display()
        )
    };
    // Go's client looks for the port's own line.
    let known = lab.host_keys.public().known_hosts(&format!("[127.0.0.1]:{}", lab.port()));
    std::fs::write(lab.path("known_hosts"), known).unwrap();
    let rclone = || {
        let mut rclone = Command::new("rclone");
        rclone.env("HOME", lab.dir.path());
        rclone
    };
    succeeds(rclone().arg("sync").arg(lab.path("tree")).arg(remote("there"))).await;
    succeeds(rclone().arg("sync").arg(remote("there")).arg(lab.path("back"))).await;
    succeeds(rclone().args(["check", "--download"]).arg(lab.path("tree")).arg(remote("there")))
        .await;
    same(&lab.path("back/sub/file"), &bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn sshfs_mounts_a_tree() {
    let lab = Lab::start().await;
    let (_, bytes) = cargo(&lab, 8);
    std::fs::create_dir(lab.path("tree")).unwrap();
    std::fs::create_dir(lab.path("mnt")).unwrap();
    let mut sshfs = Command::new("sshfs");
    let place = format!("root@127.0.0.1:{}", lab.path("tree").display());
    sshfs.arg(place).arg(lab.path("mnt")).arg("-p").arg(lab.port().to_string());
    for option in lab.options() {
        match option.split_at(2) {
            ("-o", option) if !option.starts_with("Port") => drop(sshfs.args(["-o", option])),
            ("-i", key) => drop(sshfs.arg("-o").arg(format!("IdentityFile={key}"))),
            ("-F", _) | (_, _) => {}
        }
    }
    succeeds(sshfs.args(["-o", "ssh_command=ssh -F/dev/null"]).stdin(Stdio::null())).await;
    let mounted = lab.path("mnt");
    let write = bytes.clone();
    let work = tokio::task::spawn_blocking(move || {
        std::fs::write(mounted.join("file"), &write).unwrap();
        std::fs::create_dir(mounted.join("dir")).unwrap();
        std::fs::rename(mounted.join("file"), mounted.join("dir/moved")).unwrap();
        std::os::unix::fs::symlink("dir", mounted.join("link")).unwrap();
        assert!(std::fs::read(mounted.join("link/moved")).unwrap() == write);
    });
    let worked = work.await;
    succeeds(Command::new("fusermount").arg("-u").arg(lab.path("mnt"))).await;
    worked.unwrap();
    same(&lab.path("tree/dir/moved"), &bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn lftp_mirrors_both_ways() {
    let lab = Lab::start().await;
    let (_, bytes) = cargo(&lab, 8);
    std::fs::create_dir_all(lab.path("tree/sub")).unwrap();
    std::fs::write(lab.path("tree/sub/file"), &bytes).unwrap();
    let options: Vec<_> =
        lab.options().into_iter().filter(|option| !option.starts_with("-oPort")).collect();
    let script = format!(
        "set sftp:connect-program 'ssh -a -x {}'; set net:max-retries 1; \
         open -u root,none -p {} sftp://127.0.0.1; \
         mirror -R -P 4 {tree} {there}; mirror -P 4 {there} {back}",
        options.join(" "),
        lab.port(),
        tree = lab.path("tree").display(),
        there = lab.path("there").display(),
        back = lab.path("back").display(),
    );
    let mut lftp = Command::new("lftp");
    succeeds(lftp.args(["-c", &script]).env("HOME", lab.dir.path()).stdin(Stdio::null())).await;
    same(&lab.path("back/sub/file"), &bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn git_pushes_and_clones() {
    let lab = Lab::start().await;
    let shell = format!("ssh {}", lab.options().join(" "));
    let remote = format!("root@127.0.0.1:{}", lab.path("bare").display());
    let git = |dir: &str| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main"]);
        git.args(["-c", "safe.directory=*"]).current_dir(lab.path(dir));
        git.env("GIT_SSH_COMMAND", &shell).env("HOME", lab.dir.path());
        git
    };
    let (_, bytes) = cargo(&lab, 4);
    std::fs::create_dir(lab.path("work")).unwrap();
    std::fs::write(lab.path("work/file"), &bytes).unwrap();
    succeeds(git("").args(["init", "-q", "--bare", "bare"])).await;
    succeeds(git("work").args(["init", "-q"])).await;
    succeeds(git("work").args(["add", "."])).await;
    succeeds(git("work").args(["commit", "-q", "-m", "first"])).await;
    succeeds(git("work").args(["push", "-q", &remote, "HEAD:main"])).await;
    succeeds(git("").args(["clone", "-q", "-b", "main", &remote, "clone"])).await;
    same(&lab.path("clone/file"), &bytes);
}

/// One task that copies and one that runs a module, by each way that Ansible knows.
#[tokio::test(flavor = "multi_thread")]
async fn ansible_copies_by_every_transfer_and_connection() {
    let lab = Lab::start().await;
    let (path, bytes) = cargo(&lab, 1);
    let ways = [
        ("ssh", "sftp", "False"),
        ("ssh", "scp", "False"),
        ("ssh", "piped", "False"),
        ("ssh", "sftp", "True"),
        ("paramiko", "sftp", "False"),
    ];
    for (connection, transfer, pipelining) in ways {
        let there = lab.path(&format!("{connection}-{transfer}-{pipelining}"));
        let mut ansible = Command::new("/usr/bin/ansible");
        ansible
            .args(["all", "-i", "127.0.0.1,", "-u", "root", "-c", connection, "-m", "copy", "-a"])
            .arg(format!("src={} dest={} mode=0640", path.display(), there.display()))
            .args(["-e", "ansible_python_interpreter=/usr/bin/python3"])
            .arg("--private-key")
            .arg(lab.path("ecdsa"))
            .env("HOME", lab.dir.path())
            .env("ANSIBLE_REMOTE_PORT", lab.port().to_string())
            .env("ANSIBLE_HOST_KEY_CHECKING", "False")
            .env("ANSIBLE_SSH_COMMON_ARGS", lab.options().join(" "))
            .env("ANSIBLE_SSH_TRANSFER_METHOD", transfer)
            .env("ANSIBLE_PIPELINING", pipelining)
            .env("ANSIBLE_SSH_CONTROL_PATH_DIR", lab.dir.path())
            .env("ANSIBLE_REMOTE_TEMP", lab.path("remote"))
            .env("ANSIBLE_LOCAL_TEMP", lab.path("local"));
        succeeds(&mut ansible).await;
        same(&there, &bytes);
    }
}
