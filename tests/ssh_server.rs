//! The ssh room, driven by the clients people use. Needs openssh-client, openssh-sftp-server,
//! dropbear-bin, putty-tools, rsync and python3-paramiko.

#[path = "support/server.rs"]
mod support;

use std::process::Stdio;
use std::time::Duration;

use support::{Lab, eventually, output, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn exec_gives_back_status_streams_and_environment() {
    let lab = Lab::start().await;
    let done = lab
        .exec("echo out; echo err >&2; echo $IMS_JOB_ID $USER $HOME $SSH_CONNECTION; exit 7")
        .await;
    assert_eq!(done.status.code(), Some(7));
    assert!(text(&done.stdout).starts_with("out\njob-1 root /root 127.0.0.1 "), "{done:?}");
    assert_eq!(text(&done.stderr), "err\n");
    let done = lab.exec("grep SigIgn /proc/self/status").await;
    assert_eq!(text(&done.stdout), "SigIgn:\t0000000000000000\n");
    let done = lab.exec("env; kill -TERM $$").await;
    assert_eq!(done.status.code(), Some(255), "ended by a signal: {done:?}");
    assert!(!text(&done.stdout).contains("CARGO"), "nothing of ours in the environment");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_sets_language_and_nothing_else() {
    let lab = Lab::start().await;
    let mut command = lab.ssh(&["-oSendEnv=LC_TEST LANG EVIL IMS_JOB_ID"]);
    command.env("LC_TEST", "x").env("LANG", "C.UTF-8").env("EVIL", "1").env("IMS_JOB_ID", "2");
    let done = output(command.arg("echo $LC_TEST $LANG $EVIL $IMS_JOB_ID")).await;
    assert_eq!(text(&done.stdout), "x C.UTF-8 job-1\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_root_with_the_right_key_gets_in() {
    let lab = Lab::start().await;
    let mut command = Command::new("ssh");
    command.args(lab.options()).arg("admin@127.0.0.1").arg("true");
    let done = output(&mut command).await;
    assert!(text(&done.stderr).contains("Permission denied (publickey)"), "{done:?}");
    let other = lab.path("other");
    let mut keygen = Command::new("ssh-keygen");
    output(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&other)).await;
    let options: Vec<_> = lab.options().into_iter().filter(|o| !o.starts_with("-i")).collect();
    let mut command = Command::new("ssh");
    command.args(options).arg("-i").arg(other).arg("root@127.0.0.1").arg("true");
    let done = output(&mut command).await;
    assert!(text(&done.stderr).contains("Permission denied (publickey)"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn input_reaches_the_program_with_its_end_and_eight_bits() {
    let lab = Lab::start().await;
    let sent: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let mut child =
        lab.ssh(&[]).arg("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = sent.clone();
    let writing = tokio::spawn(async move { stdin.write_all(&bytes).await });
    let mut got = Vec::new();
    let mut stdout = child.stdout.take().unwrap();
    tokio::time::timeout(support::DEADLINE, stdout.read_to_end(&mut got)).await.unwrap().unwrap();
    writing.await.unwrap().unwrap();
    assert!(got == sent);
    assert!(child.wait().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_on_a_terminal_has_motd_size_and_job_control() {
    let lab = Lab::start().await;
    let mut command = lab.ssh(&["-tt"]);
    command.env("TERM", "vt220").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin
        .write_all(b"tty; echo T=$TERM; stty -a | grep -c isig; echo 0=$0\nexit 3\n")
        .await
        .unwrap();
    let mut shown = Vec::new();
    let mut stdout = child.stdout.take().unwrap();
    tokio::time::timeout(support::DEADLINE, stdout.read_to_end(&mut shown)).await.unwrap().unwrap();
    let shown = text(&shown);
    for part in ["Welcome to job-1\r\n", "/dev/pts/", "T=vt220", "0=-bash"] {
        assert!(shown.contains(part), "{part:?} in {shown}");
    }
    assert_eq!(child.wait().await.unwrap().code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_closes_at_once_leaves_its_program_running() {
    let lab = Lab::start().await;
    let mark = lab.path("complete");
    let script = "
import paramiko, sys
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect('127.0.0.1', port=int(sys.argv[1]), username='root', key_filename=sys.argv[2],
               look_for_keys=False, allow_agent=False)
client.get_transport().open_session().exec_command(sys.argv[3])
client.close()
";
    let command = format!("sleep 1; echo said; touch {}", mark.display());
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script, &lab.port().to_string()]).arg(lab.path("ecdsa")).arg(command);
    let done = output(&mut python).await;
    assert!(done.status.success(), "{done:?}");
    eventually("the file", || mark.exists()).await;
    eventually("the session's end", || lab.server.sessions().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn close_shows_the_notice_and_ends_everything_in_time() {
    let lab = Lab::start().await;
    let mut shell = lab.ssh(&["-tt"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut sleeper = lab.ssh(&[]).arg("sleep 1000").spawn().unwrap();
    eventually("two sessions", || lab.server.sessions().len() == 2).await;
    let begun = tokio::time::Instant::now();
    lab.server.close("The job is complete.\n", Duration::from_secs(5)).await;
    assert!(begun.elapsed() < Duration::from_secs(15));
    let mut shown = Vec::new();
    shell.stdout.take().unwrap().read_to_end(&mut shown).await.unwrap();
    assert!(text(&shown).contains("The job is complete.\r\n"), "{}", text(&shown));
    for child in [&mut shell, &mut sleeper] {
        let ended = tokio::time::timeout(support::DEADLINE, child.wait()).await.unwrap().unwrap();
        assert!(!ended.success());
    }
    assert!(tokio::net::TcpStream::connect(lab.server.local_addr()).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn sftp_works_and_other_subsystems_are_refused() {
    let lab = Lab::start().await;
    std::fs::write(
        lab.path("batch"),
        format!("put {0}/known_hosts {0}/copy\n", lab.dir.path().display()),
    )
    .unwrap();
    let mut sftp = Command::new("sftp");
    sftp.args(lab.options()).arg("-b").arg(lab.path("batch")).arg("root@127.0.0.1");
    let done = output(&mut sftp).await;
    assert!(done.status.success(), "{done:?}");
    assert!(lab.path("copy").exists());
    let done = output(lab.ssh(&["-s"]).arg("netconf")).await;
    assert!(text(&done.stderr).contains("subsystem request failed"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_ends_with_its_shell_whatever_runs_in_the_background() {
    let lab = Lab::start().await;
    let begun = tokio::time::Instant::now();
    let command = "trap '' HUP; sleep 60 & for i in $(seq 20000); do echo line $i; done";
    let done = output(lab.ssh(&["-tt"]).arg(command)).await;
    assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", begun.elapsed());
    assert!(text(&done.stdout).ends_with("line 20000\r\n"), "all of the output came first");
    assert!(done.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_its_terminal_hangs_it_up() {
    let lab = Lab::start().await;
    let mark = lab.path("hup");
    let command = format!(
        "trap 'touch {}; exit' HUP; echo ready; while :; do sleep 0.1; done",
        mark.display()
    );
    let mut child = lab.ssh(&["-tt"]).arg(command).stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 5];
    child.stdout.take().unwrap().read_exact(&mut ready).await.unwrap();
    child.kill().await.unwrap();
    eventually("SIGHUP", || mark.exists()).await;
    eventually("the session's end", || lab.server.sessions().is_empty()).await;
}
