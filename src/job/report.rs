//! Reports the state of a job to IMS, the log and the probes, and creates the outcome at its end.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use tokio_util::sync::CancellationToken;

use super::connect;
use super::hold::Insisting;
use super::published::Over;
use crate::contract::ImsAccess;
use crate::publish::{Published, failure_json, result_json};
use crate::telemetry::chain;
use crate::telemetry::status::Board;
use crate::workspace;
use ims_client as ims;
use ims_client::Status;

/// How a job ended, and what is printed of it.
#[derive(Debug)]
pub struct Outcome {
    pub end: End,
    /// False if the terminal status could not be reported to IMS.
    pub reported: bool,
    /// The result JSON of contract section 5.
    pub result: String,
}

impl Outcome {
    /// The outcome if nothing can be reported to IMS. Logs the error.
    pub(super) fn without_ims(error: &anyhow::Error) -> Self {
        let error = chain(error.as_ref());
        tracing::error!("the job failed, and this cannot be reported to IMS: {error}");
        Self { end: End::Failed, reported: false, result: failure_json(&error) }
    }
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Success,
    /// The user touched `failed`.
    GaveUp,
    /// SIGTERM or SIGINT.
    Terminated,
    Failed,
}

/// The user touched `failed`.
#[derive(Debug, thiserror::Error)]
#[error("the user gave up: {file} was created")]
pub(super) struct GaveUp {
    pub file: PathBuf,
}

/// Reports the state of a job. Without a job id there is no record to patch, only a log.
pub(super) struct Reporter {
    /// Replaced when a job is held: the credentials may have been repaired.
    ims: Mutex<ims::Client>,
    access: ImsAccess,
    /// How long a status is reported again that IMS refuses.
    patience: Duration,
    /// The job is in this status, and IMS did not take it.
    missed: Mutex<Option<Status>>,
    pub job_id: Option<String>,
    pub board: Board,
    /// Cancelled by SIGTERM and SIGINT.
    pub stop: CancellationToken,
}

impl Reporter {
    /// Sets up the client of IMS.
    pub fn connect(
        access: &ImsAccess,
        job_id: Option<String>,
        board: Board,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let ims = Mutex::new(connect::ims(access)?);
        let (access, patience) = (access.clone(), Duration::ZERO);
        Ok(Self { ims, access, patience, missed: Mutex::default(), job_id, board, stop })
    }

    /// For a job that is held for so long.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    pub fn ims(&self) -> ims::Client {
        self.ims.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads credentials and CA anew.
    pub fn renew(&self) -> anyhow::Result<()> {
        let ims = connect::ims(&self.access)?;
        *self.ims.lock().unwrap_or_else(PoisonError::into_inner) = ims;
        Ok(())
    }

    /// Reports that the job has come to `status`.
    pub async fn enter(&self, status: Status) -> Result<(), ims::Error> {
        self.patch(status).await?;
        *self.missed() = None;
        Ok(())
    }

    /// Reports a status without which the job can go on: its work must not be lost for it.
    pub async fn enter_if_possible(&self, status: Status) {
        if let Err(error) = self.enter(status).await {
            tracing::warn!(%status, "the job status could not be reported: {}", chain(&error));
            *self.missed() = Some(status);
        }
    }

    /// Reports the status that IMS did not take, if there is one.
    pub async fn report_missed(&self) {
        let missed = *self.missed();
        if let Some(status) = missed {
            self.enter_if_possible(status).await;
        }
    }

    fn missed(&self) -> MutexGuard<'_, Option<Status>> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the work and reports how it ended. A panic in it is an error like any other.
    pub async fn conclude(
        &self,
        work: impl Future<Output = anyhow::Result<Published>> + Send + 'static,
    ) -> Outcome {
        let result = tokio::spawn(work)
            .await
            .unwrap_or_else(|panic| Err(anyhow!("internal error, please report it: {panic}")));
        self.finish(result).await
    }

    /// Does one step of a job, and reports only a failure to IMS: the job continues after it.
    pub async fn conclude_step(
        &self,
        work: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) -> Outcome {
        let work = async move { tokio::spawn(work).await.map_err(|panic| anyhow!(panic))? };
        match work.await {
            Ok(()) => Outcome { end: End::Success, reported: true, result: String::new() },
            Err(error) => self.finish(Err(error)).await,
        }
    }

    /// Logs and reports the end of the job. The one place where its error is logged.
    async fn finish(&self, result: anyhow::Result<Published>) -> Outcome {
        let end = match &result {
            Ok(_) => End::Success,
            Err(error) if error.is::<GaveUp>() => End::GaveUp,
            Err(_) if self.stop.is_cancelled() => End::Terminated,
            Err(_) => End::Failed,
        };
        let status = if end == End::Success { Status::Success } else { Status::Error };
        if let Err(error) = &result {
            tracing::error!("the job failed: {}", chain(error.as_ref()));
        }
        if let Err(error) = &result
            && self.is_not_ours(error)
        {
            let error = format!("{}; nothing is reported to IMS", chain(error.as_ref()));
            return Outcome { end, reported: true, result: failure_json(&error) };
        }
        let reported = self.patch(status).await;
        if let Err(error) = &reported {
            tracing::error!(%status, "cannot report the end of the job to IMS: {}", chain(error));
        }
        let printed = match &result {
            Ok(published) => {
                let job = reported.as_ref().ok().and_then(Option::as_ref);
                result_json(published, job.or(published.job.as_ref()))
            }
            Err(error) => failure_json(&chain(error.as_ref())),
        };
        Outcome { end, reported: reported.is_ok(), result: printed }
    }

    /// Whether the job is over, or lives without this agent of it.
    fn is_not_ours(&self, error: &anyhow::Error) -> bool {
        if error.is::<Over>() {
            return true;
        }
        let error = error.downcast_ref::<workspace::Error>();
        matches!(error, Some(workspace::Error::InUse { job_id, .. })
            if self.job_id.as_ref() == Some(job_id))
    }

    /// The status that lets the user in and the one at the end are worth waiting for an IMS that is away.
    async fn patch(&self, status: Status) -> Result<Option<ims::Job>, ims::Error> {
        self.board.set_status(status);
        tracing::info!(%status, "job status");
        let Some(id) = &self.job_id else { return Ok(None) };
        let reported = match status {
            // Not stopped by SIGTERM: that is when it matters most.
            Status::Success | Status::Error => self.report_end(id, status).await,
            Status::WaitingOnUser => {
                self.ims().with_long_deadline().set_job_status(id, status, &self.stop).await
            }
            _ => self.ims().set_job_status(id, status, &self.stop).await,
        };
        reported.map(Some)
    }

    /// A job that succeeded is worth the patience of one that is held.
    async fn report_end(&self, id: &str, status: Status) -> Result<ims::Job, ims::Error> {
        let patience = if status == Status::Success { self.patience } else { Duration::ZERO };
        let mut insisting = Insisting::new(&self.board, &self.stop, patience);
        loop {
            let patch =
                |ims: ims::Client, stop| async move { ims.set_job_status(id, status, &stop).await };
            match self.ims().retry_past_shutdown(&self.stop, patch).await {
                Ok(job) => return Ok(job),
                Err(error) => insisting.refused(error).await?,
            }
            if let Err(error) = self.renew() {
                tracing::error!("IMS cannot be reached: {}", chain(error.as_ref()));
            }
        }
    }
}
