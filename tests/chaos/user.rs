//! The user of a job: comes when invited, works, says `complete`, and is gone.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::bench::{Bench, CHANGE};
use crate::site::{Agent, Site};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Progress {
    Absent,
    /// The changes are made.
    Worked,
    /// `complete` was said.
    Done,
}

pub struct User {
    pub progress: Progress,
    /// A session that the user leaves open.
    open: Option<Child>,
}

impl User {
    pub fn new() -> Self {
        Self { progress: Progress::Absent, open: None }
    }

    /// Does the next thing, if it is time for it. `stay`: does not say `complete` yet.
    pub async fn step(&mut self, bench: &Bench, site: &Site, agent: &Agent, stay: bool) {
        if self.progress == Progress::Done || !invited(site, agent) {
            return;
        }
        if self.progress == Progress::Absent {
            if self.work(bench, site, agent).await {
                self.progress = Progress::Worked;
            }
        } else if !stay && self.complete(bench, site, agent).await {
            self.progress = Progress::Done;
        }
    }

    /// Says `complete` once more, where a job was held for the user.
    pub fn complete_again(&self, site: &Site) {
        fs::write(site.parent.join("complete"), "").unwrap();
    }

    async fn work(&mut self, bench: &Bench, site: &Site, agent: &Agent) -> bool {
        if !site.shape.session {
            let mut change = Command::new("sh");
            change.args(["-e", "-c", CHANGE]).current_dir(site.root());
            return succeeds(change).await;
        }
        let root = if site.shape.jail { "/".into() } else { site.root().display().to_string() };
        if !succeeds(ssh(bench, agent, &format!("cd {root} && {CHANGE}"))).await {
            return false;
        }
        let mut open = ssh(bench, agent, "echo here; sleep 1000");
        open.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.open = open.kill_on_drop(true).spawn().ok();
        true
    }

    async fn complete(&self, bench: &Bench, site: &Site, agent: &Agent) -> bool {
        if !site.shape.session {
            return fs::write(site.parent.join("complete"), "").is_ok();
        }
        let file = match site.shape.jail {
            true => "/tmp/complete".into(),
            false => site.parent.join("complete").display().to_string(),
        };
        // The end of the session may be faster than its answer.
        succeeds(ssh(bench, agent, &format!("touch {file}"))).await || said_complete(site)
    }
}

/// Whether a signal lies there, or was taken.
fn said_complete(site: &Site) -> bool {
    site.parent.join("complete").exists() || site.root().join("tmp/complete").exists()
}

/// Whether a signal lies where an agent would find it.
pub fn signal_lies_there(site: &Site) -> bool {
    said_complete(site)
}

/// IMS shows the status with which users come, by this agent.
fn invited(site: &Site, agent: &Agent) -> bool {
    let told = site.record.told();
    let by_this = told[agent.told..].iter().any(|told| told == "waiting_on_user");
    // Where the user works by SSH, the root may be mounted for the agent alone.
    let opened = site.shape.session || site.root().join("etc").is_dir();
    by_this && site.record.status() == "waiting_on_user" && opened
}

fn ssh(bench: &Bench, agent: &Agent, command: &str) -> Command {
    let mut ssh: Command = bench.stand.key.ssh(agent.ssh).into();
    ssh.arg(command);
    ssh
}

async fn succeeds(mut command: Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let limit = Duration::from_secs(30);
    let ended = tokio::time::timeout(limit, command.status()).await;
    matches!(ended, Ok(Ok(status)) if status.success())
}
