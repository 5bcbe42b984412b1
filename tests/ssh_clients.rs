//! The ssh room and the clients of the world: each does its daily work.

#[path = "support/server.rs"]
mod support;

use std::path::Path;
use std::process::Stdio;

use support::{Lab, VENVS, eventually, output, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

fn tree(lab: &Lab) -> std::path::PathBuf {
    let tree = lab.path("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    std::fs::write(tree.join("sub/file"), vec![7; 3 << 20]).unwrap();
    std::fs::write(tree.join("a b"), "blank").unwrap();
    tree
}

fn same(left: &Path, right: &Path) {
    let diff = std::process::Command::new("diff").arg("-r").args([left, right]).output().unwrap();
    assert!(diff.status.success(), "{diff:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scp_in_both_modes_and_rsync_copy_trees_both_ways() {
    let lab = Lab::start().await;
    let tree = tree(&lab);
    for mode in ["-O", "-s"] {
        let (up, down) = (lab.path(&format!("up{mode}")), lab.path(&format!("down{mode}")));
        let mut scp = Command::new("scp");
        scp.args(lab.options()).args(["-rp", mode]).arg(&tree);
        let done = output(scp.arg(format!("root@127.0.0.1:{}", up.display()))).await;
        assert!(done.status.success(), "{done:?}");
        let mut scp = Command::new("scp");
        scp.args(lab.options()).args(["-rp", mode]);
        let done = output(scp.arg(format!("root@127.0.0.1:{}", up.display())).arg(&down)).await;
        assert!(done.status.success(), "{done:?}");
        same(&tree, &down);
    }
    let mut rsync = Command::new("rsync");
    let shell = format!("ssh {}", lab.options().join(" "));
    rsync.args(["-a", "-e", &shell]).arg(format!("{}/", tree.display()));
    let done = output(rsync.arg(format!("root@127.0.0.1:{}", lab.path("synced").display()))).await;
    assert!(done.status.success(), "{done:?}");
    same(&tree, &lab.path("synced"));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropbear_runs_commands_and_pipes() {
    let lab = Lab::start().await;
    let key = lab.path("dropbear");
    let mut convert = Command::new("dropbearconvert");
    convert.args(["openssh", "dropbear"]).arg(lab.path("ecdsa")).arg(&key);
    let done = output(&mut convert).await;
    assert!(done.status.success(), "{done:?}");
    let mut dbclient = Command::new("dbclient");
    dbclient.args(["-y", "-y", "-i"]).arg(key).args(["-p", &lab.port().to_string()]);
    dbclient.arg("root@127.0.0.1").arg("wc -c; exit 4").env("HOME", lab.dir.path());
    dbclient.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = dbclient.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&vec![1; 5 << 20]).await.unwrap();
    drop(stdin);
    let done = tokio::time::timeout(support::DEADLINE, child.wait_with_output());
    let done = done.await.unwrap().unwrap();
    assert_eq!(text(&done.stdout), "5242880\n", "{done:?}");
    assert_eq!(done.status.code(), Some(4));
}

#[tokio::test(flavor = "multi_thread")]
async fn putty_runs_commands_and_copies() {
    let lab = Lab::start().await;
    let key = lab.path("key.ppk");
    let mut puttygen = Command::new("puttygen");
    puttygen.arg(lab.path("ed25519")).args(["-O", "private", "-o"]).arg(&key);
    puttygen.args(["--new-passphrase", "/dev/null"]).stdin(Stdio::null());
    let converted = puttygen.output().await;
    let key = match converted {
        Ok(done) if done.status.success() => key,
        // puttygen is its own package; plink takes PuTTY's format alone.
        other => panic!("puttygen of putty-tools: {other:?}"),
    };
    let fingerprint = lab.fingerprint();
    let mut plink = Command::new("plink");
    plink.args(["-batch", "-ssh", "-noagent", "-hostkey", &fingerprint, "-P"]);
    plink
        .arg(lab.port().to_string())
        .arg("-i")
        .arg(&key)
        .args(["root@127.0.0.1", "echo hi; exit 5"]);
    let done = output(plink.env("HOME", lab.dir.path()).stdin(Stdio::null())).await;
    assert_eq!((text(&done.stdout).as_str(), done.status.code()), ("hi\n", Some(5)), "{done:?}");
    std::fs::write(
        lab.path("batch"),
        format!("cd {}\nput ed25519 copy\n", lab.dir.path().display()),
    )
    .unwrap();
    let mut psftp = Command::new("psftp");
    psftp.args(["-batch", "-noagent", "-hostkey", &fingerprint, "-P"]).arg(lab.port().to_string());
    psftp.arg("-i").arg(&key).arg("-b").arg(lab.path("batch")).arg("root@127.0.0.1");
    psftp.current_dir(lab.dir.path()).env("HOME", lab.dir.path());
    let done = output(&mut psftp).await;
    assert!(done.status.success(), "{done:?}");
    assert!(lab.path("copy").exists());
}

/// paramiko 2.12 has no AES-GCM: this also proves the CTR ciphers and MACs.
#[tokio::test(flavor = "multi_thread")]
async fn paramiko_reads_streams_sends_signals_and_sees_how_a_program_ends() {
    let lab = Lab::start().await;
    let script = r#"
import paramiko, sys
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect('127.0.0.1', port=int(sys.argv[1]), username='root', key_filename=sys.argv[2],
               look_for_keys=False, allow_agent=False)
stdin, stdout, stderr = client.exec_command('cat; echo err >&2; exit 9')
stdin.write('x' * 3000000); stdin.channel.shutdown_write()
assert len(stdout.read()) == 3000000 and stderr.read() == b'err\n'
assert stdout.channel.recv_exit_status() == 9
transport = client.get_transport()
channel = transport.open_session()
channel.exec_command("trap 'echo got; exit 6' USR1; echo ready; while :; do sleep 0.1; done")
assert channel.recv(100) == b'ready\n'
message = paramiko.Message()
message.add_byte(paramiko.common.cMSG_CHANNEL_REQUEST)
message.add_int(channel.remote_chanid)
message.add_string('signal'); message.add_boolean(False); message.add_string('USR1')
transport._send_user_message(message)
assert channel.recv(100) == b'got\n'
assert channel.recv_exit_status() == 6
channel = transport.open_session()
channel.get_pty('vt100', 100, 30)
channel.exec_command('stty size; read x; stty size')
assert channel.recv(100) == b'30 100\r\n'
channel.resize_pty(120, 40)
channel.send('\n')
seen = b''
while b'40 120' not in seen: seen += channel.recv(100)
# What runs on in the background holds the streams, and not the status.
channel = transport.open_session()
channel.settimeout(60)
channel.exec_command('sleep 1000 & echo $!; exit 7')
assert channel.recv_exit_status() == 7
client.exec_command('kill ' + channel.recv(100).decode())[1].channel.recv_exit_status()
assert channel.recv(100) == b''
# The end of the output does not wait for the program.
channel = transport.open_session()
channel.settimeout(60)
channel.exec_command('trap "exit 5" TERM; echo $$; exec >&- 2>&-; while :; do sleep 0.1; done')
pid = channel.recv(100).decode()
assert channel.recv(100) == b''
client.exec_command('kill ' + pid)[1].channel.recv_exit_status()
assert channel.recv_exit_status() == 5
# More than a program can be given.
stdin, stdout, stderr = client.exec_command(':' + 140000 * ' ')
assert stdout.channel.recv_exit_status() == 1
assert stderr.read().endswith(b'Argument list too long\n')
print(transport.remote_cipher, transport.remote_mac)
"#;
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script, &lab.port().to_string()]).arg(lab.path("ecdsa"));
    let done = output(&mut python).await;
    assert!(done.status.success(), "{done:?}");
    assert!(text(&done.stdout).contains("aes128-ctr hmac-sha2-256"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ansible_pings_with_and_without_pipelining() {
    let lab = Lab::start().await;
    let common = lab.options().join(" ");
    for pipelining in ["True", "False"] {
        let mut ansible = Command::new("ansible");
        ansible.args(["all", "-i", "127.0.0.1,", "-u", "root", "-m", "ping", "-e"]);
        ansible.arg("ansible_python_interpreter=/usr/bin/python3");
        ansible.env("ANSIBLE_SSH_PIPELINING", pipelining).env("HOME", lab.dir.path());
        ansible.env("ANSIBLE_SSH_COMMON_ARGS", &common);
        ansible.env("ANSIBLE_SSH_CONTROL_PATH_DIR", lab.dir.path());
        ansible.env("ANSIBLE_LOCAL_TEMP", lab.path("tmp"));
        let done = output(&mut ansible).await;
        assert!(text(&done.stdout).contains("pong"), "pipelining {pipelining}: {done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_stops_a_flood_on_a_terminal() {
    let lab = Lab::start().await;
    let mut command = lab.ssh(&["-tt"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    stdin.write_all(b"yes flood\n").await.unwrap();
    let mut seen = vec![0; 1 << 20];
    stdout.read_exact(&mut seen).await.unwrap();
    stdin.write_all(b"\x03").await.unwrap();
    stdin.write_all(b"echo st''opped; exit\n").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(support::DEADLINE, stdout.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(text(&rest).contains("stopped"));
    let _ = child.wait().await;
    eventually("the session's end", || lab.server.sessions().is_empty()).await;
}

/// The newest: Debian's knows neither today's exchanges nor the attack.
fn ssh_audit(lab: &Lab, seconds: &str, arguments: &[&str]) -> Command {
    let program = format!("{VENVS}/venv/bin/ssh-audit");
    assert!(Path::new(&program).exists(), "{program} is made by scripts/install test");
    let mut audit = Command::new("timeout");
    // As Ctrl-C: an attack goes on for ever, and then tells what it did.
    audit.args(["-s", "INT", seconds, &program, "--no-colors", "--port", &lab.port().to_string()]);
    audit.args(arguments).arg("127.0.0.1");
    audit
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_audit_warns_of_nothing_that_could_be_avoided() {
    let lab = Lab::start().await;
    let report = text(&output(&mut ssh_audit(&lab, "60", &["-l", "warn"])).await.stdout);
    assert!(report.contains("[warn]") && !report.contains("[fail]"), "{report}");
    for line in report.lines().filter(|line| line.contains("[warn]")) {
        // Old clients have no other MACs, and no exchange that withstands quantum computers.
        let known = ["(mac) hmac-sha2-", "(kex) curve25519-sha256"];
        assert!(known.iter().any(|name| line.contains(name)), "{line}");
    }
    assert!(!report.contains("throttling"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn key_exchanges_that_nobody_means_are_few_and_keep_nobody_out() {
    let lab = Lab::start().await;
    let mut attack = ssh_audit(&lab, "8", &["--dheat=8"]);
    let logins = async {
        for _ in 0..5 {
            let done = lab.exec("sleep 1; echo in").await;
            assert_eq!(text(&done.stdout), "in\n", "{done:?}");
        }
    };
    let (report, ()) = tokio::join!(output(&mut attack), logins);
    let report = text(&report.stdout);
    assert!(report.contains("is using rate limiting"), "{report}");
    assert!(!report.contains("Successful DH KEX replies: 0.0/sec"), "{report}");
}
