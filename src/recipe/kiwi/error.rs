//! Why a build failed, with kiwi's message if there is one, and what to do.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use super::log::Log;
use super::{KIWI, LOG};
use linux::disk::{self, human};
use linux::{Signal, cgroup, process};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read this process's capabilities")]
    Capabilities(#[source] io::Error),
    #[error(
        "building an image needs CAP_SYS_ADMIN and CAP_SYS_CHROOT, because kiwi mounts /proc and \
         /dev in the new root: run the job's container privileged"
    )]
    NotPrivileged,
    #[error("{KIWI} is not installed: run create jobs in the builder image, or install kiwi")]
    NoKiwi(#[source] io::Error),
    #[error("cannot use {path} for the build")]
    Io { path: PathBuf, source: io::Error },
    #[error("the site's kiwi configuration {path} is not a YAML map")]
    SiteConfig { path: PathBuf, source: Box<serde_saphyr::Error> },
    #[error(
        "the volume of {path} is full ({} free), kiwi says: {said}; request a larger build \
         environment (build_env_size)",
        human(*.free)
    )]
    DiskFull { path: PathBuf, free: u64, said: String },
    #[error(
        "the build ran out of memory and was killed{}, kiwi says: {said}; request more memory \
         (job_mem_size)",
        of_limit(.limit)
    )]
    OutOfMemory { limit: Option<u64>, said: String },
    #[error(
        "{KIWI} was killed by SIGKILL, most likely because memory ran out: request more memory \
         (job_mem_size)"
    )]
    Killed,
    #[error("kiwi failed ({status}): {said}; the full log is {log}")]
    Failed { status: String, said: String, log: PathBuf },
    #[error("the build was cancelled")]
    Cancelled,
    #[error("cannot run {KIWI}")]
    Run(#[source] process::Error),
}

fn of_limit(limit: &Option<u64>) -> String {
    limit.map(|limit| format!(" (the limit is {})", human(limit))).unwrap_or_default()
}

/// A disk with less room than this is full for a build.
const FULL: u64 = 1 << 20;

/// Lines of kiwi's log that are looked through for a reason.
const TAIL: u64 = 64 << 10;

/// What the end of kiwi means. `starved`: the kernel has killed something of this container's.
pub(super) fn explain(error: process::Error, log: &mut Log, target: &Path, starved: bool) -> Error {
    let (status, stderr) = match error {
        process::Error::Failed { status, stderr, .. } => (status, stderr),
        process::Error::Cancelled { .. } => return Error::Cancelled,
        process::Error::Start { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            return Error::NoKiwi(source);
        }
        error => return Error::Run(error),
    };
    log.rest(&stderr);
    let last = stderr.lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned);
    let said = log.error().or(last).unwrap_or_else(|| "nothing".into());
    if starved {
        return Error::OutOfMemory { limit: cgroup::memory(), said };
    }
    let free = disk::space(target).map_or(u64::MAX, |space| space.free);
    let in_log =
        || tail(&target.join(LOG)).is_ok_and(|text| text.lines().any(super::log::says_full));
    if free < FULL || log.says_full() || in_log() {
        return Error::DiskFull { path: target.into(), free, said };
    }
    if status.signal() == Some(Signal::SIGKILL as i32) {
        return Error::Killed;
    }
    Error::Failed { status: status.to_string(), said, log: target.join(LOG) }
}

fn tail(path: &Path) -> io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
