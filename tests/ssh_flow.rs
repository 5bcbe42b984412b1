//! The traps of flow control: slow and dead consumers, stalled readers, key exchanges under load.

#![allow(clippy::print_stderr, reason = "what was measured")]

#[path = "support/server.rs"]
mod support;

use std::process::Stdio;
use std::time::Duration;

use support::{DEADLINE, Lab, eventually, output, text};
use tokio::io::AsyncReadExt;

/// A sparse file: as good as any data that is not looked at.
fn big_file(lab: &Lab, megabytes: u64) -> std::fs::File {
    let path = lab.path("big");
    std::fs::File::create(&path).unwrap().set_len(megabytes << 20).unwrap();
    std::fs::File::open(path).unwrap()
}

/// Resident memory of this process, which is the server, in MiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// A multiplexed connection: `ssh -M`, and its socket's option for further clients.
async fn master(lab: &Lab) -> (tokio::process::Child, String) {
    let socket = lab.path("mux");
    let option = format!("-oControlPath={}", socket.display());
    let child = lab.ssh(&["-MN", &option]).spawn().unwrap();
    eventually("the master's socket", || socket.exists()).await;
    (child, option)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_of_more_than_all_buffers_does_not_deadlock() {
    let lab = Lab::start().await;
    let file = big_file(&lab, 300);
    let before = resident();
    let mut child = lab.ssh(&[]).arg("cat").stdin(file).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let counting = async {
        let mut buffer = vec![0; 1 << 20];
        let mut total = 0;
        loop {
            match stdout.read(&mut buffer).await.unwrap() {
                0 => return total,
                count => total += count as u64,
            }
        }
    };
    let begun = tokio::time::Instant::now();
    assert_eq!(tokio::time::timeout(DEADLINE, counting).await.unwrap(), 300 << 20);
    eprintln!("echo: {:?}, memory {} -> {} MiB", begun.elapsed(), before, resident());
    assert!(resident() < before + 100, "memory grew");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_read_stalls_neither_its_neighbours_nor_memory() {
    let lab = Lab::start().await;
    let (mut master, mux) = master(&lab).await;
    let before = resident();
    let file = big_file(&lab, 4096);
    let mut stalled = lab.ssh(&[&mux]).arg("sleep 30").stdin(file).spawn().unwrap();
    eventually("the session", || lab.server.sessions().len() == 1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    for _ in 0..5 {
        let begun = tokio::time::Instant::now();
        let done = output(lab.ssh(&[&mux]).arg("echo alive")).await;
        assert_eq!(text(&done.stdout), "alive\n");
        eprintln!("a command beside it: {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
    }
    assert!(resident() < before + 100, "memory grew to {} from {before} MiB", resident());
    let ended = tokio::time::timeout(DEADLINE, stalled.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "the program ended as it would");
    master.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_stalls_neither_its_neighbours_nor_memory() {
    let lab = Lab::start().await;
    let (mut master, mux) = master(&lab).await;
    let before = resident();
    let mut stalled = lab.ssh(&[&mux]).arg("cat /dev/zero").stdout(Stdio::piped()).spawn().unwrap();
    eventually("the session", || lab.server.sessions().len() == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..3 {
        let done = output(lab.ssh(&[&mux]).arg("echo alive")).await;
        assert_eq!(text(&done.stdout), "alive\n");
    }
    assert!(resident() < before + 60, "memory grew to {} from {before} MiB", resident());
    stalled.kill().await.unwrap();
    master.kill().await.unwrap();
    eventually("the session's end", || lab.server.sessions().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_program_gets_everything_in_order() {
    let lab = Lab::start().await;
    let sent: Vec<u8> = (0..8_000_000u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(lab.path("big"), &sent).unwrap();
    let mut command = lab.ssh(&[]);
    command.stdin(std::fs::File::open(lab.path("big")).unwrap());
    let done = output(command.arg("sleep 2; head -c 9000000; sleep 1; cat")).await;
    assert!(done.stdout == sent, "{} of {} bytes", done.stdout.len(), sent.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_side_by_side_survive_key_exchanges() {
    let lab = Lab::start().await;
    let socket = format!("-oControlPath={}", lab.path("mux").display());
    let mut master = lab.ssh(&["-MN", &socket, "-oRekeyLimit=1M"]).spawn().unwrap();
    eventually("the master's socket", || lab.path("mux").exists()).await;
    let uploads = (0..4).map(|_| {
        let mut command = lab.ssh(&[&socket]);
        command.stdin(big_file(&lab, 64)).arg("wc -c");
        async move { output(&mut command).await }
    });
    for done in futures::future::join_all(uploads).await {
        assert_eq!(text(&done.stdout).trim(), (64u64 << 20).to_string(), "{done:?}");
    }
    master.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_sessions_share_a_connection() {
    let lab = Lab::start().await;
    let (mut master, mux) = master(&lab).await;
    let sessions = (0..50).map(|number| {
        let mut command = lab.ssh(&[&mux]);
        command.arg(format!("sleep 1; echo {number}"));
        async move { text(&output(&mut command).await.stdout) }
    });
    let shown = futures::future::join_all(sessions).await;
    let expected: Vec<_> = (0..50).map(|number| format!("{number}\n")).collect();
    assert_eq!(shown, expected);
    master.kill().await.unwrap();
    eventually("no sessions", || lab.server.sessions().is_empty()).await;
}
