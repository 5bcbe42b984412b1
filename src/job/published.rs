//! Checks the state of a job when its agent starts: a restarted agent must not repeat a job that
//! has ended, or publish its image twice.

use std::path::Path;

use super::customize::left_state;
use super::report::Reporter;
use super::{Job, create};
use crate::blocking::blocking;
use crate::contract::Action;
use crate::publish::journal::Journal;
use crate::publish::{Published, earlier};
use crate::telemetry::chain;
use crate::workspace::{self, Claim, Cleanup};
use ims_client as ims;
use ims_client::Status;
use s3_client::Store;

/// The job is over, and this agent has nothing to do with it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Over {
    #[error("the job ended with {0} before this agent was started; its directory was not changed")]
    Ended(Status),
    #[error("IMS has no record of the job: it was deleted")]
    Deleted,
}

/// The record of a job that is not over; `Some` also for one that has a result.
async fn record(reporter: &Reporter) -> anyhow::Result<Option<ims::Job>> {
    let Some(id) = &reporter.job_id else { return Ok(None) };
    match reporter.ims().with_long_deadline().job(id, &reporter.stop).await {
        Err(error) if error.status() == Some(404) => Err(Over::Deleted.into()),
        Err(error) => Err(error.into()),
        Ok(job) => Ok(Some(job)),
    }
}

/// An error if the job is over, or has its result.
pub(super) async fn ensure_open(reporter: &Reporter) -> anyhow::Result<()> {
    let Some(job) = record(reporter).await? else { return Ok(()) };
    ensure_not_ended(&job)?;
    match job.resultant_image_id {
        Some(_) => Err(Over::Ended(Status::Success).into()),
        None => Ok(()),
    }
}

fn ensure_not_ended(job: &ims::Job) -> Result<(), Over> {
    let is = |status: &Status| job.status.as_ref().is_some_and(|it| *it == status.to_string());
    match [Status::Success, Status::Error].into_iter().find(is) {
        Some(status) => Err(Over::Ended(status)),
        None => Ok(()),
    }
}

/// The image that is the job's result already, if there is one; an error if the job is over without.
pub(super) async fn before(job: &Job, store: &Store) -> anyhow::Result<Option<Published>> {
    let reporter = &job.reporter;
    let Some(record) = record(reporter).await? else { return Ok(None) };
    if let Some(published) = result(reporter, record.clone(), store).await? {
        return Ok(Some(published));
    }
    ensure_not_ended(&record)?;
    Ok(None)
}

/// The image that is the job's result already, whether or not the job has ended.
pub(super) async fn earlier_result(
    reporter: &Reporter,
    store: &Store,
) -> anyhow::Result<Option<Published>> {
    match record(reporter).await? {
        Some(record) => result(reporter, record, store).await,
        None => Ok(None),
    }
}

async fn result(
    reporter: &Reporter,
    record: ims::Job,
    store: &Store,
) -> anyhow::Result<Option<Published>> {
    let Some(id) = &record.resultant_image_id else { return Ok(None) };
    let image = match reporter.ims().with_long_deadline().image(id, &reporter.stop).await {
        Err(error) if error.status() == Some(404) => {
            tracing::warn!(image = id, "the job's record names an image that does not exist");
            return Ok(None);
        }
        image => image?,
    };
    tracing::info!(image = id, "an earlier run of this job has published its image");
    earlier::read(image, Some(record), store, &reporter.stop).await.map(Some)
}

/// As [`settle`] at the start of a job that is started again. Where it cannot be done now, publishing does it,
/// which waits for a repair: a user's work may depend on it.
pub(super) async fn settle_first(
    reporter: &Reporter,
    store: &Store,
    journal: &Path,
) -> anyhow::Result<Option<Published>> {
    match Box::pin(settle(reporter, store, journal)).await {
        Err(error) if !reporter.stop.is_cancelled() => {
            tracing::warn!(
                "cannot finish or roll back now what an earlier run was publishing, retrying \
                 later: {}",
                chain(error.as_ref())
            );
            Ok(None)
        }
        settled => settled,
    }
}

/// What an earlier run was publishing when it was killed is complete, or is withdrawn now. Its image is the
/// job's result then.
pub(super) async fn settle(
    reporter: &Reporter,
    store: &Store,
    journal: &Path,
) -> anyhow::Result<Option<Published>> {
    let journal = Journal::at(journal.to_owned());
    let (ims, stop) = (reporter.ims().with_long_deadline(), &reporter.stop);
    let Some(image) =
        earlier::finish_or_roll_back(&ims, &store.with_long_deadline(), &journal, stop).await?
    else {
        return Ok(None);
    };
    let id = image.id.clone();
    let record = match &reporter.job_id {
        None => None,
        Some(job_id) => {
            let set = |ims: ims::Client, stop| {
                let (job_id, id) = (job_id.clone(), id.clone());
                async move { ims.set_job_result(&job_id, &id, &stop).await }
            };
            Some(ims.retry_past_shutdown(stop, set).await?)
        }
    };
    tracing::info!(image = id, "an earlier run of this job has published its image");
    earlier::read(image, record, store, stop).await.map(Some)
}

/// Removes what an earlier run of a job has left that is published. The image is there, whatever stays.
pub(super) async fn discard(job: &Job) {
    if let Err(error) = remove(job).await {
        tracing::error!("cannot remove the image root: {}", chain(error.as_ref()));
    }
}

async fn remove(job: &Job) -> anyhow::Result<()> {
    if job.contract.action == Action::Create {
        let directory = create::open_directory(job).await?;
        return blocking(move || Ok(directory.close(Cleanup::Remove)?)).await;
    }
    let (parent, job_id) =
        (job.contract.image_root_parent.clone(), job.contract.job_id.to_string());
    blocking(move || {
        let claim: Claim = workspace::claim(&parent, &job_id)?;
        left_state(&claim)?;
        Ok(workspace::discard(&claim)?)
    })
    .await
}
