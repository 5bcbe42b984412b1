//! A job's processes: the agent, what it left behind, and what a crash of standalone left.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::env;
use crate::os::launch;

/// A process that cannot be mistaken for another which got its number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pid: u32,
    /// Clock ticks between boot and the start of the process.
    started: u64,
}

impl Identity {
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // proc_pid_stat(5): field 2 is the name in parentheses, field 22 the start time.
        let started = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(19))
            .and_then(|ticks| ticks.parse().ok())
            .ok_or_else(|| io::Error::other("/proc/PID/stat has an unknown form"))?;
        Ok(Self { pid, started })
    }

    pub fn save(&self, path: &Path) -> io::Result<()> {
        std::fs::write(path, serde_json::to_vec(self)?)
    }

    /// `None` if there is no such file, or not a whole one.
    pub fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    fn lives(&self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == *self)
    }

    /// Ends a process that is no child of ours (any more).
    pub async fn end(self, grace: Duration) {
        if !self.lives() {
            return;
        }
        tracing::warn!(pid = self.pid, "ending a job that outlived its standalone");
        launch::terminate(self.pid);
        let gone = async {
            while self.lives() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(grace, gone).await.is_err() && self.lives() {
            launch::kill_group(self.pid);
            launch::kill_now(self.pid);
        }
    }
}

/// Ends whatever still carries the job's id in its environment: sessions of an agent that died.
pub fn end_leftovers(job: Uuid) {
    let marker = env::marker(job);
    for pid in pids() {
        let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { continue };
        if environment.split(|byte| *byte == 0).any(|entry| entry == marker.as_bytes()) {
            tracing::warn!(%job, pid, "ending a process that the job left behind");
            launch::kill_now(pid);
        }
    }
}

fn pids() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}
