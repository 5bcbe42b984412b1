//! A stderr that takes nothing, for a while or for ever: it costs log lines and nothing else.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal::SIGTERM;
use nix::sys::stat::Mode;

use crate::pod::{Agent, Pod, Volume};
use crate::support::proxy::Fault;
use crate::support::{SOON, agent};

const SUCCESS: [&str; 4] = ["fetching_image", "waiting_on_user", "packaging_artifacts", "success"];

/// Starts the job with stderr there.
fn run<'a>(pod: &'a Pod, stderr: &Path) -> Agent<'a> {
    let script = format!("exec \"$0\" \"$@\" 2>>'{}'", stderr.display());
    pod.run_through(&["bash", "-c", &script], &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_log_is_never_taken_is_done() {
    let pod = Pod::start().await;
    let mut agent = run(&pod, Path::new("/dev/full"));
    agent.reaches("waiting_on_user").await;
    pod.touch("complete");
    agent.ends(0, &SUCCESS, &[]).await;
    pod.assert_image().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_log_is_never_taken_follows_sigterm() {
    let pod = Pod::start().await;
    let mut agent = run(&pod, Path::new("/dev/full"));
    agent.reaches("waiting_on_user").await;
    agent.process.signal(SIGTERM);
    assert_eq!(agent.process.wait(SOON).await.code(), Some(143));
    assert_eq!(agent.statuses(), ["fetching_image", "waiting_on_user", "error"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_of_logs_that_is_full_for_a_while_costs_lines_that_are_counted() {
    let pod = Pod::start().await;
    let logs = pod.stand.dir.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let _volume = Volume::mount(&logs, 1);
    let (log, filler) = (logs.join("log"), logs.join("filler"));
    File::create(&log).unwrap();
    fs::write(&filler, vec![0; 2 << 20]).unwrap_err();

    let mut agent = run(&pod, &log);
    agent.reaches("waiting_on_user").await;
    pod.s3.fail("PUT kernel", Fault::Hang, 1);
    pod.touch("complete");
    pod.s3.sees("PUT kernel").await;
    assert_eq!(fs::read_to_string(&log).unwrap(), "", "the volume is full");
    fs::remove_file(filler).unwrap();
    agent.ends(0, &SUCCESS, &[]).await;
    let text = fs::read_to_string(&log).unwrap();
    let first = text.lines().next().unwrap_or_default();
    assert!(first.contains(" log lines are missing here"), "{text}");
    assert!(first.contains("No space left on device") && text.contains("uploaded"), "{text}");
    assert!(text.lines().all(|line| line.starts_with("20")), "every line is whole: {text}");
}

/// A pipe at `path` that stays open here, with room for a page.
fn pipe(path: &Path) -> File {
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let flags = OFlag::O_NONBLOCK.bits();
    let pipe = File::options().read(true).write(true).custom_flags(flags).open(path).unwrap();
    fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    pipe
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_nothing_up() {
    let mut pod = Pod::start().await;
    pod.vars.insert("LOG_LEVEL", "DEBUG".into());
    let path = pod.stand.dir.path().join("pipe");
    let mut pipe = pipe(&path);
    pipe.write_all(&[b'x'; 4096]).unwrap();
    let mut agent = run(&pod, &path);
    agent.reaches("waiting_on_user").await;
    pod.touch("complete");
    agent.ends(0, &SUCCESS, &[]).await;
    pod.assert_image().await;
    let mut held = vec![0; 8192];
    assert_eq!(pipe.read(&mut held).unwrap(), 4096, "the pipe was full all the time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_nobody_reads_does_not_hold_the_job_up() {
    let pod = Pod::start().await;
    let path = pod.stand.dir.path().join("pipe");
    let mut pipe = pipe(&path);
    pipe.write_all(&[b'x'; 4096]).unwrap();
    let script = format!("exec \"$0\" \"$@\" >'{}'", path.display());
    let mut agent = pod.run_through(&["bash", "-c", &script], &[]);
    agent.reaches("waiting_on_user").await;
    pod.touch("complete");
    let status = agent.process.wait(SOON).await;
    let log = agent.process.log();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("cannot write the result to stdout"), "{log}");
    pod.assert_image().await;
}

#[test]
fn commands_whose_output_is_not_taken_end_with_an_error_and_with_a_closed_pipe_well() {
    for arguments in [&["docs", "contract"][..], &["completions", "bash"], &["--help"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = Command::new(agent()).args(arguments).stdout(full).output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {log}");
        assert!(log.contains("cannot write") && log.contains("No space left"), "{log}");

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(agent()).args(arguments).stdout(writer).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    }
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(agent());
    command.arg("--no-such-option").stderr(full).stdout(Stdio::null());
    assert_eq!(command.status().unwrap().code(), Some(2));
}
