//! How a job's users get in: by a server in this container, or by one in another container of the pod.

use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::report::Reporter;
use super::{Job, Sessions, pod};
use crate::attend::listen::Bound;
use crate::attend::rights;
use crate::attend::session::{self, JobFacts, ReadyNotifier, ServerKeys, SessionSettings, Site};
use crate::ssh::authorized_keys::AuthorizedKeys;
use crate::ssh::hostkeys::HostKeys;
use crate::watch::Signal;
use ims_client::Status;

/// The way in for the users of a job.
pub(super) struct UserAccess<'a> {
    job: &'a Job,
    /// `None` where another container serves the sessions.
    server: Option<Server>,
}

/// What is taken before anything is fetched, so that what is missing is known at once.
struct Server {
    bound: Bound,
    authorized_keys: AuthorizedKeys,
    /// Made beside the fetch, or when users are let in: it takes seconds.
    host_keys: Option<HostKeys>,
}

/// One time in which users have the image.
pub(super) struct Visit {
    pub on_ready: Arc<dyn ReadyNotifier>,
    pub stop: CancellationToken,
}

impl Visit {
    /// The one that the job waits for.
    pub fn of(job: &Job) -> Self {
        Self { on_ready: job.reporter.clone(), stop: job.reporter.stop.clone() }
    }
}

#[async_trait]
impl ReadyNotifier for Reporter {
    async fn ready(&self) -> anyhow::Result<()> {
        Ok(self.enter(Status::WaitingOnUser).await?)
    }
}

/// The job's status stays what it is.
pub(super) struct Unreported;

#[async_trait]
impl ReadyNotifier for Unreported {
    async fn ready(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

impl<'a> UserAccess<'a> {
    pub async fn prepare(job: &'a Job) -> anyhow::Result<Self> {
        let server = match job.options.sessions {
            Sessions::Here => Some(Server::prepare(job).await?),
            Sessions::Separate => None,
        };
        Ok(Self { job, server })
    }

    /// Finds or makes the host's keys, which takes seconds.
    pub async fn make_host_keys(&mut self) -> anyhow::Result<()> {
        match &mut self.server {
            Some(server) => server.host_keys(self.job).await.map(drop),
            None => Ok(()),
        }
    }

    /// Whether users can be let in once more: another container serves its sessions once.
    pub fn can_open_again(&self) -> bool {
        self.server.is_some()
    }

    /// Lets users in and waits for the signal; when this returns all sessions have ended.
    pub async fn serve(&mut self, site: &Site, visit: Visit) -> anyhow::Result<Signal> {
        match &mut self.server {
            Some(server) => server.serve(self.job, site, visit).await,
            None => pod::hand_over(self.job, site).await,
        }
    }
}

impl Server {
    async fn prepare(job: &Job) -> anyhow::Result<Self> {
        let bound = job.options.ssh_listen.bind()?;
        if let Some(directory) = &job.options.record {
            session::make_private(directory)
                .with_context(|| format!("cannot record to {}", directory.display()))?;
        }
        let authorized_keys = session::authorized_keys(&job.options.authorized_keys)?;
        rights::check(&job.options.rights).await?;
        Ok(Self { bound, authorized_keys, host_keys: None })
    }

    async fn host_keys(&mut self, job: &Job) -> anyhow::Result<HostKeys> {
        if let Some(keys) = &self.host_keys {
            return Ok(keys.clone());
        }
        let made = session::host_keys(&job.contract.image_root_parent, &job.reporter.board).await?;
        Ok(self.host_keys.insert(made).clone())
    }

    async fn serve(&mut self, job: &Job, site: &Site, visit: Visit) -> anyhow::Result<Signal> {
        let host_keys = self.host_keys(job).await?;
        let keys = ServerKeys { authorized_keys: self.authorized_keys.clone(), host_keys };
        let settings = settings(job, visit.stop);
        session::serve(&settings, site, &mut self.bound, keys, visit.on_ready.as_ref()).await
    }
}

/// Sessions in the container of the whole job.
fn settings(job: &Job, stop: CancellationToken) -> SessionSettings {
    let Job { contract, options, reporter, started, .. } = job;
    let facts = JobFacts {
        parent: contract.image_root_parent.clone(),
        job_id: contract.job_id,
        arch: contract.image.arch,
        session: contract.session.clone(),
    };
    let credentials = Some(contract.s3.credentials_dir.as_path());
    SessionSettings {
        secrets: session::secrets(contract.ims.oauth_dir.clone(), credentials),
        forwarding: options.forwarding,
        record: options.record.clone(),
        limits: options.limits,
        grace: (&contract.safekeeping).into(),
        started: *started,
        ..SessionSettings::new(facts, options.rights.clone(), reporter.board.clone(), stop)
    }
}
