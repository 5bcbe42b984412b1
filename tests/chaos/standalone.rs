//! Jobs of standalone, which is killed, or their agents are: records, objects and work outlive it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::process::Command;

use crate::bench::{Bench, CHANGE, Sample};
use crate::oracle;
use crate::point::{Action, Point, Recording, Trigger};
use crate::site::NAME;
use crate::support::process::Process;
use crate::user::Progress;
use crate::verdict::{Finding, Kind, Outcome, Verdict};

/// How long a job may take that nothing disturbs any more.
const ENOUGH: Duration = Duration::from_secs(120);

struct Run<'a> {
    bench: Bench,
    point: &'a Point,
    usual: Duration,
    job: String,
    port: u16,
    progress: Progress,
    fired: bool,
    findings: Vec<Finding>,
}

pub async fn point(
    sample: Arc<Sample>,
    point: &Point,
    usual: u64,
    dir: &Path,
) -> (Verdict, Recording) {
    let begun = Instant::now();
    let bench = Bench::start(sample).await;
    let job = bench.stand.customize(&bench.base, true).await;
    let (job, port) = (job.id.clone(), job.port);
    let usual = Duration::from_millis(usual);
    let mut run = Run {
        bench,
        point,
        usual,
        job,
        port,
        progress: Progress::Absent,
        fired: false,
        findings: Vec::new(),
    };
    let started = Instant::now();
    let status = run.attend().await;
    let milliseconds = started.elapsed().as_millis() as u64;
    let outcome = run.judge(status, dir).await;
    run.bench.stand.stop().await;
    if !run.findings.is_empty() {
        copy(&run.bench.stand.dir.path().join("standalone.err"), &dir.join("standalone.err"));
    }
    let verdict = Verdict {
        name: point.name.clone(),
        group: point.group,
        outcome: outcome.filter(|_| run.findings.is_empty()),
        met: run.fired,
        findings: run.findings,
        took: begun.elapsed(),
    };
    (verdict, Recording { milliseconds, ..Recording::default() })
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::copy(from, to);
}

impl Run<'_> {
    fn found(&mut self, kind: Kind, what: impl Into<String>) {
        self.findings.push(Finding { kind, what: what.into() });
    }

    fn directory(&self) -> PathBuf {
        self.bench.stand.data().join("jobs").join(&self.job)
    }

    /// Until the job's status is terminal; gives it.
    async fn attend(&mut self) -> Option<String> {
        let started = Instant::now();
        while started.elapsed() < ENOUGH {
            self.disturb(started).await;
            let record = self.bench.stand.ims.job(&self.job).await;
            let status = record["status"].as_str().unwrap_or_default().to_owned();
            if matches!(status.as_str(), "success" | "error") && self.is_disturbed() {
                return Some(status);
            }
            if status == "waiting_on_user" {
                self.user().await;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.found(Kind::Stuck, format!("no end within {ENOUGH:?}"));
        None
    }

    /// A kill that comes after the end is of no job, but standalone has to stand it.
    fn is_disturbed(&self) -> bool {
        self.fired || !matches!(self.point.trigger, Trigger::Time(_))
    }

    async fn disturb(&mut self, started: Instant) {
        if self.fired {
            return;
        }
        let due = match self.point.trigger {
            Trigger::Time(thousandths) => {
                started.elapsed() >= self.usual.mul_f64(thousandths as f64 / 1000.0)
            }
            Trigger::Worked => self.progress == Progress::Worked,
            Trigger::Done => self.progress == Progress::Done,
            _ => true,
        };
        if !due {
            return;
        }
        self.fired = true;
        match self.point.action {
            Action::Kill => {
                self.bench.stand.server().signal(Signal::SIGKILL);
                self.bench.stand.restart().await;
            }
            Action::Term => self.bench.stand.restart().await,
            Action::KillAgent => {
                if let Some(pid) = self.agent() {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            _ => {}
        }
    }

    fn agent(&self) -> Option<i32> {
        let text = std::fs::read(self.directory().join("process.json")).ok()?;
        let process: Value = serde_json::from_slice(&text).ok()?;
        process["pid"].as_i64()?.try_into().ok()
    }

    async fn user(&mut self) {
        if self.progress == Progress::Absent {
            if self.ssh(&format!("cd / && {CHANGE}")).await {
                self.progress = Progress::Worked;
            }
        } else if self.progress == Progress::Worked
            && (self.point.trigger != Trigger::Worked || self.fired)
            && self.ssh("touch /tmp/complete").await
        {
            self.progress = Progress::Done;
        }
    }

    async fn ssh(&self, command: &str) -> bool {
        let mut ssh: Command = self.bench.stand.key.ssh(self.port).into();
        ssh.arg(command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        ssh.kill_on_drop(true);
        ssh.status().await.is_ok_and(|status| status.success())
    }

    async fn judge(&mut self, status: Option<String>, dir: &Path) -> Option<Outcome> {
        let published = status? == "success";
        if !published && self.progress != Progress::Absent {
            self.package(dir).await;
        }
        if published || self.progress != Progress::Absent {
            let result = self.bench.stand.ims.job(&self.job).await["resultant_image_id"].clone();
            let expected = &self.bench.sample.changed.clone();
            let image = oracle::image(&self.bench, Some(result.as_str()), expected, dir).await;
            if let Err((kind, what)) = image {
                self.found(kind, what);
            }
        }
        for what in oracle::left_in_store(&self.bench).await {
            self.found(Kind::Orphan, what);
        }
        let directory = self.directory().display().to_string();
        for what in oracle::left_on_the_machine(&directory, &directory, &self.job).await {
            self.found(Kind::Orphan, what);
        }
        Some(if published { Outcome::Published } else { Outcome::Error })
    }

    /// What docs/limits.md says of a job that died: its directory is kept for `package`.
    async fn package(&mut self, dir: &Path) {
        let root = self.directory().join("mnt/image-root").display().to_string();
        let arguments = ["package", "--name", NAME, "--job-id", &self.job, "--root", &root];
        let mut command = self.bench.stand.command(&arguments);
        command.env("S3_BUCKET", "boot-images");
        let mut package = Process::start(command, dir, "package");
        let status = package.wait(ENOUGH).await;
        if !status.success() {
            let log = package.log();
            let error = log.lines().rev().find(|line| line.contains("ERROR")).unwrap_or_default();
            let error: String = error.chars().take(400).collect();
            self.found(Kind::Lost, format!("`package` does not publish it: {error}"));
        }
    }
}
