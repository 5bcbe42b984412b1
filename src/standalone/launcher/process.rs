//! The processes of a job: the agent, and what the agent or a crash of standalone left behind.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::env;
use linux::launch;
use linux::process::{self, Process};

/// How long the kernel may take to end what was killed; a process in a hung disk takes for ever.
const KILL_TIME: Duration = Duration::from_secs(5);

/// A process that cannot be mistaken for another which got its number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pid: u32,
    /// Clock ticks between boot and the start of the process.
    started: u64,
}

impl Identity {
    pub fn of(pid: u32) -> io::Result<Self> {
        let number = i32::try_from(pid).map_err(io::Error::other)?;
        let process = Process::read(number).ok_or(io::ErrorKind::NotFound)?;
        if !process.runs() {
            return Err(io::Error::other("the process ended; only its parent still knows it"));
        }
        Ok(Self { pid, started: process.start_time })
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
        tracing::warn!(pid = self.pid, "ending a job of a standalone process that has exited");
        launch::terminate(self.pid);
        if !self.gone_within(grace).await {
            launch::kill_group(self.pid);
            launch::kill_now(self.pid);
            if !self.gone_within(KILL_TIME).await {
                tracing::error!(pid = self.pid, "cannot kill a process of a job");
            }
        }
    }

    async fn gone_within(self, time: Duration) -> bool {
        let gone = async {
            while self.lives() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(time, gone).await.is_ok()
    }
}

/// Ends all processes with the job's id in their environment: sessions of an agent that died.
///
/// Users keep the id in their environment too (the procedures of IMS export it). But no job runs in
/// the mount namespace of standalone, and no user of this machine in that of a job.
pub fn end_leftovers(job: Uuid) {
    let Some(ours) = own_mount_namespace() else { return };
    let marker = env::marker(job);
    for process in process::all() {
        let is_marker = |entry: &Vec<u8>| entry == marker.as_bytes();
        let Some(namespace) = process.mount_namespace() else { continue };
        if namespace != ours && process.environment().iter().any(is_marker) {
            let pid = process.pid as u32;
            tracing::warn!(%job, pid, "ending a process that the job left behind");
            launch::kill_now(pid);
        }
    }
}

fn own_mount_namespace() -> Option<PathBuf> {
    Process::read(std::process::id() as i32)?.mount_namespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_number_and_start() {
        let own = Identity::of(std::process::id()).unwrap();
        assert!(own.lives());
        assert!(!Identity { started: own.started + 1, ..own }.lives());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        while Identity::of(pid).is_ok() {
            std::thread::yield_now();
        }
        assert!(Path::new("/proc").join(pid.to_string()).exists(), "a zombie, and no process");
        child.wait().unwrap();
    }
}
