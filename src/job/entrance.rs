//! The SSH server for the user: in this container, or in another container of the pod.

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::listen::Bound;
use super::session::{self, Door, Host, Site, Told};
use super::{Job, Sessions, pod, rights};
use crate::ssh::authorized_keys::AuthorizedKeys;
use crate::watch::Signal;

/// What is taken before anything is fetched, so that what is missing is known at once.
pub(super) enum Entrance {
    Here { bound: Bound, authorized_keys: AuthorizedKeys },
    Separate,
}

/// Ready for the user.
pub(super) enum Open {
    Here { bound: Bound, door: Door },
    Separate,
}

impl Entrance {
    pub async fn prepare(job: &Job) -> anyhow::Result<Self> {
        Ok(match job.options.sessions {
            Sessions::Here => {
                let bound = job.options.ssh_listen.bind()?;
                if let Some(directory) = &job.options.record {
                    session::make_private(directory)
                        .with_context(|| format!("cannot record to {}", directory.display()))?;
                }
                let authorized_keys = session::authorized_keys(&job.options.authorized_keys)?;
                rights::check(&job.options.rights).await?;
                Self::Here { bound, authorized_keys }
            }
            Sessions::Separate => Self::Separate,
        })
    }

    /// Makes the host's keys, which takes seconds.
    pub async fn open(self, job: &Job) -> anyhow::Result<Open> {
        Ok(match self {
            Self::Here { bound, authorized_keys } => {
                let host_keys =
                    session::host_keys(&job.contract.image_root_parent, &job.reporter.board)
                        .await?;
                Open::Here { bound, door: Door { authorized_keys, host_keys } }
            }
            Self::Separate => Open::Separate,
        })
    }
}

/// One time in which users have the image.
pub(super) struct Visit {
    pub told: Told,
    pub stop: CancellationToken,
}

impl Visit {
    /// The one that the job waits for.
    pub fn of(job: &Job) -> Self {
        Self { told: Told::Ims(job.reporter.clone()), stop: job.reporter.stop.clone() }
    }
}

impl Open {
    /// Whether users can be let in once more: another container serves its sessions once.
    pub fn can_open_again(&self) -> bool {
        matches!(self, Self::Here { .. })
    }

    /// Lets the user in and waits for the signal; when this returns all sessions have ended.
    pub async fn attend(&mut self, job: &Job, site: &Site, visit: Visit) -> anyhow::Result<Signal> {
        match self {
            Self::Here { bound, door } => {
                let host = Host::of(job, visit);
                session::serve(&host, site, bound, door.clone()).await
            }
            Self::Separate => pod::hand_over(job, site).await,
        }
    }
}
