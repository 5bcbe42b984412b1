//! Who gets into the ssh room, what keys and certificates allow, and the limits.

#[path = "support/server.rs"]
mod support;

use std::process::Stdio;
use std::time::Duration;

use ims_job_agent::ssh::MaxStartups;
use support::{DEADLINE, Lab, eventually, output, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_command_and_environment_replace_what_was_asked_for() {
    let options = r#"command="echo forced $SSH_ORIGINAL_COMMAND $FROM_KEY",environment="FROM_KEY=yes",no-pty"#;
    let lab = Lab::with(options, |_| {}).await;
    let done = lab.exec("rm -rf x").await;
    assert_eq!(text(&done.stdout), "forced rm -rf x yes\n", "{done:?}");
    let done = output(lab.ssh(&["-tt"]).arg("tty")).await;
    assert!(text(&done.stderr).contains("PTY allocation request failed"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_dates_keep_keys_out() {
    for options in [r#"from="10.0.0.0/8""#, r#"expiry-time="20200101Z""#] {
        let lab = Lab::with(options, |_| {}).await;
        let done = lab.exec("true").await;
        assert!(text(&done.stderr).contains("Permission denied"), "{options}: {done:?}");
    }
    let lab = Lab::with(r#"from="127.*",expiry-time="20990101""#, |_| {}).await;
    assert!(lab.exec("true").await.status.success());
}

/// Signs the lab's ed25519 key and has ssh use the certificate.
async fn certify(lab: &Lab, arguments: &[&str]) {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-s"]).arg(lab.path("ecdsa")).args(["-I", "test"]).args(arguments);
    let done = output(keygen.arg(lab.path("ed25519.pub"))).await;
    assert!(done.status.success(), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_an_authority_are_honoured_and_narrowed() {
    let lab = Lab::with(r#"cert-authority,principals="admins""#, |_| {}).await;
    assert!(!lab.exec("true").await.status.success(), "the authority's key is no login");
    certify(&lab, &["-n", "admins"]).await;
    assert!(lab.exec("true").await.status.success());
    certify(&lab, &["-n", "others"]).await;
    assert!(!lab.exec("true").await.status.success(), "wrong principal");
    certify(&lab, &["-n", "admins", "-O", "force-command=echo certified", "-O", "no-pty"]).await;
    assert_eq!(text(&lab.exec("true").await.stdout), "certified\n");
    certify(&lab, &["-n", "admins", "-O", "source-address=10.0.0.0/8"]).await;
    assert!(!lab.exec("true").await.status.success(), "wrong address");
    certify(&lab, &["-n", "admins", "-O", "critical:unknown=1"]).await;
    assert!(!lab.exec("true").await.status.success(), "unknown critical option");
    certify(&lab, &["-n", "admins", "-V", "20200101:20200102"]).await;
    assert!(!lab.exec("true").await.status.success(), "expired");
    certify(&lab, &["-h", "-n", "admins"]).await;
    assert!(!lab.exec("true").await.status.success(), "a host's certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn sha1_signatures_and_too_many_tries_are_refused() {
    let lab = Lab::start().await;
    let mut command = lab.ssh(&["-oIdentityAgent=none"]);
    for number in 0..7 {
        let key = lab.path(&format!("wrong{number}"));
        let mut keygen = Command::new("ssh-keygen");
        output(keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key)).await;
    }
    let mut options: Vec<_> = lab.options();
    options.retain(|option| !option.starts_with("-i"));
    let mut many = Command::new("ssh");
    many.args(options);
    for number in 0..7 {
        many.arg("-i").arg(lab.path(&format!("wrong{number}")));
    }
    let done =
        output(many.arg("-i").arg(lab.path("ed25519")).args(["root@127.0.0.1", "true"])).await;
    assert!(text(&done.stderr).contains("Too many authentication"), "{done:?}");
    let done = output(command.args(["-oHostKeyAlgorithms=ssh-rsa", "true"])).await;
    assert!(text(&done.stderr).contains("no matching host key type"), "{done:?}");
    let done = output(lab.ssh(&["-oHostKeyAlgorithms=rsa-sha2-256"]).arg("true")).await;
    assert!(done.status.success(), "the RSA host key: {done:?}");
}

/// The error of reading from a connection that sends `bytes` and then nothing.
async fn until_cut(lab: &Lab, bytes: &[u8]) -> Duration {
    let begun = tokio::time::Instant::now();
    let mut tcp = TcpStream::connect(lab.server.local_addr()).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    let mut seen = Vec::new();
    let reading = tcp.read_to_end(&mut seen);
    let _ = tokio::time::timeout(DEADLINE, reading).await.expect("cut");
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_slow_clients_are_cut_at_login_grace_time() {
    let lab = Lab::with("", |config| config.limits.login_grace_time = Duration::from_secs(2)).await;
    for bytes in [&b""[..], b"SSH-2.0-slow\r\n", b"SSH-2.0-slow\r\n\0\0\x7f\xff", b"garbage"] {
        let time = until_cut(&lab, bytes).await;
        assert!(time < Duration::from_secs(20), "{bytes:?}: {time:?}");
    }
    let done = lab.exec("sleep 3; echo still here").await;
    assert_eq!(text(&done.stdout), "still here\n", "the limit is the login's alone");
}

/// Resident memory of this process, which is the server, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// Sends for as long as the server listens: a little at a time, or much at once.
async fn pester(lab: &Lab, number: usize) {
    let mut tcp = TcpStream::connect(lab.server.local_addr()).await.unwrap();
    let greeting = if number.is_multiple_of(3) { &b""[..] } else { b"SSH-2.0-pest\r\n" };
    let piece = match number % 2 {
        0 => vec![number as u8],
        _ => (0..1 << 20).map(|n| (n * number) as u8).collect(),
    };
    let mut sent = tcp.write_all(greeting).await;
    while sent.is_ok() {
        sent = tcp.write_all(&piece).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_drips_before_login_cost_neither_memory_nor_the_place_of_others() {
    let lab = Lab::with("", |config| {
        config.limits.login_grace_time = Duration::from_secs(5);
        config.limits.max_startups =
            MaxStartups { start: 500, rate: 30, full: 1000, per_source: None };
    })
    .await;
    assert!(lab.exec("true").await.status.success());
    let before = resident();
    let pests = futures::future::join_all((0..100).map(|number| pester(&lab, number)));
    tokio::time::timeout(DEADLINE, async {
        let served = async {
            for _ in 0..3 {
                assert!(lab.exec("true").await.status.success(), "others are served meanwhile");
            }
        };
        tokio::join!(pests, served)
    })
    .await
    .expect("all are cut at LoginGraceTime");
    assert!(resident() < before + 60, "memory grew from {before} to {} MiB", resident());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_does_not_log_in_is_turned_away() {
    let crowd = MaxStartups { start: 3, rate: 100, full: 3, per_source: None };
    let lab = Lab::with("", |config| config.limits.max_startups = crowd).await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut tcp = TcpStream::connect(lab.server.local_addr()).await.unwrap();
        let mut byte = [0; 4];
        tcp.read_exact(&mut byte).await.unwrap();
        waiting.push(tcp);
    }
    let mut tcp = TcpStream::connect(lab.server.local_addr()).await.unwrap();
    let mut said = String::new();
    tcp.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "Not allowed at this time\r\n");
    drop(waiting);
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !lab.exec("true").await.status.success() {
        assert!(tokio::time::Instant::now() < deadline, "never let in again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_beyond_the_limit_are_refused_and_come_back() {
    let lab = Lab::with("", |config| config.limits.max_sessions = 2).await;
    let mux = format!("-oControlPath={}", lab.path("mux").display());
    let mut master = lab.ssh(&["-MN", &mux]).spawn().unwrap();
    eventually("the master's socket", || lab.path("mux").exists()).await;
    let mut first = lab.ssh(&[&mux]).arg("cat").stdin(Stdio::piped()).spawn().unwrap();
    let mut second = lab.ssh(&[&mux]).arg("cat").stdin(Stdio::piped()).spawn().unwrap();
    eventually("two sessions", || lab.server.sessions().len() == 2).await;
    // OpenSSH's client then makes a connection of its own.
    let refused = output(lab.ssh(&[&mux]).arg("true")).await;
    assert!(text(&refused.stderr).contains("open refused by peer"), "{refused:?}");
    drop(first.stdin.take());
    assert!(first.wait().await.unwrap().success());
    // Our own close counts, not the client's answer to it, which the library does not tell.
    for _ in 0..20 {
        let done = output(lab.ssh(&[&mux]).arg("true")).await;
        assert_eq!((text(&done.stderr).as_str(), done.status.code()), ("", Some(0)));
    }
    drop(second.stdin.take());
    assert!(second.wait().await.unwrap().success());
    master.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_had_its_channels_is_left_for_another() {
    let lab = Lab::with("", |config| config.limits.max_closed = 3).await;
    let mux = format!("-oControlPath={}", lab.path("mux").display());
    let mut master = lab.ssh(&["-MN", &mux]).spawn().unwrap();
    eventually("the master's socket", || lab.path("mux").exists()).await;
    let refusals = async || {
        let done = output(lab.ssh(&[&mux]).arg("echo done")).await;
        assert_eq!((text(&done.stdout).as_str(), done.status.code()), ("done\n", Some(0)));
        text(&done.stderr).contains("open refused by peer")
    };
    for _ in 0..3 {
        assert!(!refusals().await);
    }
    assert!(refusals().await, "ssh has connected anew");
    master.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_dies_with_its_window_full_leaves_nothing_behind() {
    let lab = Lab::start().await;
    let mut child = lab.ssh(&[]).arg("exec cat /dev/zero").stdout(Stdio::piped()).spawn().unwrap();
    eventually("a full window", || {
        lab.server.sessions().first().is_some_and(|session| session.bytes_out > 2 << 20)
    })
    .await;
    child.kill().await.unwrap();
    eventually("the session's end", || lab.server.sessions().is_empty()).await;
}
