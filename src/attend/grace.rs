//! The grace period of an image that cannot be packaged: its users see the reason, and have time to
//! repair it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::limits::{Time, until};
use crate::contract::{ImageNames, Safekeeping};
use crate::publish::boot;
use crate::ssh::{self, Activity};
use crate::telemetry::chain;
use crate::telemetry::status::{Board, Hold};
use linux::disk::{self, human};

/// With less room on the volume than this nothing can be packed.
const LEAST_ROOM: u64 = 1 << 20;

/// How late the end of the time is noticed, or a person who logs in.
const INTERVAL: Duration = Duration::from_millis(250);

/// What is looked at before an image is packaged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Check {
    pub kernel: String,
    pub initrd: String,
}

impl Check {
    pub fn of(image: &ImageNames) -> Self {
        Self { kernel: image.kernel.clone(), initrd: image.initrd.clone() }
    }

    /// What prevents that the image root `root` is packaged, a line each; the result is packed to
    /// `volume`. Blocks.
    pub fn faults(&self, root: &Path, volume: &Path) -> Vec<String> {
        let missing = match boot::missing(root, &self.kernel, &self.initrd) {
            Ok(missing) => missing,
            Err(error) => vec![error],
        };
        let mut faults: Vec<String> = missing.iter().map(|error| error.to_string()).collect();
        if let Ok(space) = disk::space(volume)
            && space.free < LEAST_ROOM
        {
            faults.push(format!(
                "no space left on the volume of the job, where the image is packed: {} of {} are \
                 free",
                human(space.free),
                human(space.total)
            ));
        }
        faults
    }
}

/// Why users are let in once more although they were done.
#[derive(Debug, Clone)]
pub(crate) enum Trouble {
    /// Their image cannot be packed: they have a while to repair it.
    Image(String),
    /// IMS or the store is to be repaired by others.
    Site(String),
}

/// How long users have to repair an image.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Where a person is logged in, or comes.
    pub attended: Duration,
    /// Where CFS, Ansible or a script ended the sessions.
    pub unattended: Duration,
}

impl From<&Safekeeping> for Limits {
    fn from(safekeeping: &Safekeeping) -> Self {
        Self { attended: safekeeping.grace, unattended: safekeeping.unattended }
    }
}

/// The time in which an image is repaired.
#[derive(Debug)]
pub(crate) struct Grace {
    reason: String,
    begun: (Instant, Timestamp),
    attended: bool,
    limits: Limits,
}

impl Grace {
    /// Begins now. `reason` is why the image cannot be packaged.
    pub fn begin(reason: String, limits: Limits) -> Self {
        let begun = (Instant::now(), Timestamp::now());
        Self { reason, begun, attended: false, limits }
    }

    /// Waits until the time is over, and gives the error that the job ends with. It grows when a person
    /// logs in.
    pub async fn over(&mut self, server: &ssh::Handle, board: &Board) -> anyhow::Error {
        board.set_hold(Some(self.hold()));
        let mut interval = tokio::time::interval(INTERVAL);
        loop {
            interval.tick().await;
            if !self.attended && is_attended(server) {
                self.attended = true;
                board.set_hold(Some(self.hold()));
            }
            if self.begun.0.elapsed() >= self.limit() {
                return anyhow::anyhow!(
                    "the image cannot be packaged, and nobody repaired it within {} ({}): {}",
                    Time(self.limit()),
                    if self.attended { "IMS_JOB_GRACE" } else { "IMS_JOB_GRACE_UNATTENDED" },
                    self.reason
                );
            }
        }
    }

    /// What users are shown of it. `complete` is the file that they touch.
    pub fn notice(&self, complete: &Path) -> String {
        format!(
            "\nTHE IMAGE CANNOT BE PACKAGED:\n{}\nRepair it and touch {} again before {}, or the \
             job ends with an error.\n",
            self.reason,
            complete.display(),
            self.until(self.limits.attended).strftime("%H:%M:%S UTC")
        )
    }

    fn limit(&self) -> Duration {
        if self.attended { self.limits.attended } else { self.limits.unattended }
    }

    fn until(&self, limit: Duration) -> Timestamp {
        until(self.begun.1, limit)
    }

    fn hold(&self) -> Hold {
        Hold { reason: self.reason.clone(), since: self.begun.1, until: self.until(self.limit()) }
    }
}

/// Whether a person has a shell there.
fn is_attended(server: &ssh::Handle) -> bool {
    server.sessions().iter().any(|session| session.connected && session.activity == Activity::Shell)
}

/// Why an image could not be packed, for users who can repair it; the error, where they cannot.
pub(crate) fn repairable_by_users(error: anyhow::Error) -> anyhow::Result<String> {
    let internal = error.chain().any(|cause| cause.is::<tokio::task::JoinError>());
    if internal { Err(error) } else { Ok(chain(error.as_ref())) }
}

/// Where a job's users make the file that completes it.
pub(crate) fn complete_file(jailed: bool, parent: &Path) -> PathBuf {
    let directory = if jailed { Path::new("/tmp") } else { parent };
    directory.join(crate::watch::COMPLETE)
}
