//! A connection that breaks, and an end that comes from outside: both sides end, and nothing stays.

use nix::sys::signal::Signal;

use crate::host::SecondHost;
use crate::pod::{Agent, Pod};

const WORKING: [&str; 2] = ["fetching_image", "waiting_on_user"];
const ENDED: [&str; 3] = ["fetching_image", "waiting_on_user", "error"];

/// A user who is at work.
async fn at_work<'a>(pod: &'a Pod, host: &SecondHost) -> (Agent<'a>, std::process::Child) {
    let mut agent = pod.run_through(&[], &host.options());
    agent.reaches("waiting_on_user").await;
    let mut session = pod.stand.key.ssh(agent.port);
    session.arg("echo here; sleep 4000").stdout(std::process::Stdio::piped());
    let mut session = session.spawn().unwrap();
    let mut word = [0; 4];
    std::io::Read::read_exact(session.stdout.as_mut().unwrap(), &mut word).unwrap();
    (agent, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cable_that_is_pulled() {
    let mut pod = Pod::start().await;
    let host = SecondHost::start(&mut pod).await;
    let (agent, mut session) = at_work(&pod, &host).await;
    host.pull_the_cable();
    agent.ends(1, &ENDED, &["sent nothing for"]).await;
    host.is_clean().await;
    assert!(!session.wait().unwrap().success());
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_both_sides() {
    let mut pod = Pod::start().await;
    let host = SecondHost::start(&mut pod).await;
    let (agent, mut session) = at_work(&pod, &host).await;
    agent.process.signal(Signal::SIGTERM);
    agent.ends(143, &ENDED, &["cancelled while the remote build node worked"]).await;
    host.is_clean().await;
    assert!(!session.wait().unwrap().success());
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed() {
    let mut pod = Pod::start().await;
    let host = SecondHost::start(&mut pod).await;
    let (mut agent, mut session) = at_work(&pod, &host).await;
    agent.process.signal(Signal::SIGKILL);
    agent.process.wait(crate::support::SOON).await;
    assert_eq!(agent.statuses(), WORKING);
    host.is_clean().await;
    session.wait().unwrap();
    // The pod comes again.
    let (agent, mut session) = at_work(&pod, &host).await;
    pod.stand.key.exec(agent.port, "touch /tmp/failed");
    agent.ends(3, &ENDED, &["the user gave up"]).await;
    session.wait().unwrap();
    host.is_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_program_is_killed() {
    let mut pod = Pod::start().await;
    let host = SecondHost::start(&mut pod).await;
    let (agent, mut session) = at_work(&pod, &host).await;
    host.kill_the_program();
    agent.ends(1, &ENDED, &["the program on the remote build node", "ended"]).await;
    host.is_clean().await;
    session.wait().unwrap();
    pod.assert_no_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_nobody_reads_holds_up_nothing() {
    let mut pod = Pod::start().await;
    let host = SecondHost::start(&mut pod).await;
    let mut agent = pod.run_through(&[], &host.options());
    agent.reaches("waiting_on_user").await;
    let mut flood = pod.stand.key.ssh(agent.port);
    flood.arg("cat /dev/zero").stdout(std::process::Stdio::piped());
    let mut flood = flood.spawn().unwrap();
    // Longer than the two heartbeats that may be missing.
    tokio::time::sleep(std::time::Duration::from_secs(13)).await;
    assert_eq!(pod.stand.key.exec(agent.port, "echo alive"), "alive\n");
    flood.kill().unwrap();
    flood.wait().unwrap();
    pod.stand.key.exec(agent.port, "touch /tmp/failed");
    agent.ends(3, &ENDED, &["the user gave up"]).await;
    host.is_clean().await;
}
