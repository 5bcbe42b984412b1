//! The way in for the user: a server in this container, or one in another container of the pod.

use anyhow::Context;

use super::listen::Bound;
use super::session::{self, Door, Host, Site};
use super::{Job, Sessions, pod};
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
    pub fn prepare(job: &Job) -> anyhow::Result<Self> {
        Ok(match job.options.sessions {
            Sessions::Here => {
                let bound = job.options.ssh_listen.bind()?;
                if let Some(directory) = &job.options.record {
                    session::make_private(directory)
                        .with_context(|| format!("cannot record to {}", directory.display()))?;
                }
                let authorized_keys = session::authorized_keys(&job.options.authorized_keys)?;
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

impl Open {
    /// Lets the user in and waits for the signal; when this returns all sessions have ended.
    pub async fn attend(self, job: &Job, site: &Site) -> anyhow::Result<Signal> {
        match self {
            Self::Here { bound, door } => session::serve(&Host::of(job), site, bound, door).await,
            Self::Separate => pod::hand_over(job, site).await,
        }
    }
}
