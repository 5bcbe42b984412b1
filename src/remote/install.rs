//! Copies the program to a node, unless the same file is already there.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::client::Connection;
use super::error::Error;
use super::quoted;
use crate::transfer::digest;

/// Where programs stay on a node, named by their sha256. Only root may write there.
const DIRECTORY: &str = "/var/lib/ims-job-agent";

/// Days after which one that is not used any more is removed.
const KEPT_DAYS: u32 = 14;

/// Where the programs are that can be brought.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Of the architecture that this program is for.
    pub own: PathBuf,
    /// A directory with `ims-job-agent-ARCH` for others, ARCH as `uname -m` says.
    pub others: PathBuf,
}

impl Programs {
    fn find(&self, node: &str, arch: &str) -> Result<PathBuf, Error> {
        if arch == std::env::consts::ARCH {
            return Ok(self.own.clone());
        }
        let other = self.others.join(format!("ims-job-agent-{arch}"));
        let is_name = arch.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if is_name && other.is_file() {
            return Ok(other);
        }
        let looked_for = self.others.clone();
        Err(Error::Architecture { node: node.into(), arch: arch.into(), looked_for })
    }
}

impl Connection {
    /// Installs the program that the node can run; gives its path there.
    pub async fn install(&self, programs: &Programs) -> Result<String, Error> {
        let said = self.run("ask for the architecture", "uname -m").await?;
        // What root's shell prints at its start comes before.
        let arch = said.lines().last().unwrap_or_default();
        let program = programs.find(&self.node, arch)?;
        let read = |source| Error::Read { path: program.clone(), source };
        let never = CancellationToken::new();
        let sha256 = digest::of_path(&program, &never).await.map_err(read)?.sha256;
        let path = format!("{DIRECTORY}/{sha256}");
        let there = format!("sha256sum < {path} 2>/dev/null | cut -c 1-64");
        if self.run("look for the program", &there).await?.ends_with(&sha256) {
            tracing::debug!(node = self.node, path, "the program is already on the node");
            self.run("use the program", &format!("touch {path}")).await?;
            return Ok(path);
        }
        let mut file = tokio::fs::File::open(&program).await.map_err(read)?;
        self.run_with("install the program", &script(&path, &sha256), &mut file).await?;
        tracing::info!(node = self.node, path, arch, "the program was copied to the node");
        Ok(path)
    }

    /// Puts a file there, in a new directory that only root may enter.
    pub async fn put_in_new(&self, directory: &Path, name: &str, file: &Path) -> Result<(), Error> {
        let read = |source| Error::Read { path: file.into(), source };
        let mut content = tokio::fs::File::open(file).await.map_err(read)?;
        let size = content.metadata().await.map_err(read)?.len();
        let target = quoted(&directory.join(name).to_string_lossy());
        let directory = quoted(&directory.to_string_lossy());
        // A connection that breaks looks like the end of the file.
        let command = format!(
            "umask 077 && mkdir {directory} && {{ cat > {target} && \
             [ \"$(stat -c %s {target})\" = {size} ] || {{ rm -rf {directory}; exit 1; }}; }}"
        );
        self.run_with("write the job's files", &command, &mut content).await.map(drop)
    }

    /// Removes the directories of jobs whose program is gone. One that is somebody's has a file `lock`
    /// that is locked, or was just made; one that has neither that nor an inbox is not ours.
    pub async fn sweep(&self) -> Result<(), Error> {
        let sweep = "for d in /tmp/ims_*; do \
             if [ -L \"$d\" ] || [ ! -O \"$d\" ]; then continue; fi; \
             if [ -f \"$d/lock\" ]; then flock -n \"$d/lock\" true; \
             else [ -f \"$d/inbox.tar\" ] && [ -n \"$(find \"$d\" -maxdepth 0 -mmin +10)\" ]; fi && \
             rm -rf --one-file-system \"$d\"; done; true";
        self.run("remove leftovers of earlier jobs", sweep).await.map(drop)
    }

    /// Removes what a job has left there. No mount of it is seen out there, but who knows.
    pub async fn remove(&self, directory: &Path) -> Result<(), Error> {
        let directory = quoted(&directory.to_string_lossy());
        self.run("remove the job's files", &format!("rm -rf --one-file-system {directory}"))
            .await
            .map(drop)
    }
}

/// Another job may install the same at the same time: it gets a name of its own first.
fn script(path: &str, sha256: &str) -> String {
    format!(
        "umask 077 && mkdir -p {DIRECTORY} && new=$(mktemp {DIRECTORY}/new.XXXXXX) && \
         trap 'rm -f \"$new\"' EXIT && cat > \"$new\" && \
         if [ \"$(sha256sum < \"$new\" | cut -c 1-64)\" != {sha256} ]; then \
         echo 'it arrived damaged' >&2; exit 1; fi && \
         chmod 700 \"$new\" && mv \"$new\" {path} && \
         find {DIRECTORY} -maxdepth 1 -type f -mtime +{KEPT_DAYS} -delete"
    )
}
