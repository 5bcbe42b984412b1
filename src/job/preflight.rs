//! Tests whether a job can publish, before a user works for hours on an image that would be lost.

use std::sync::atomic::Ordering;

use anyhow::Context;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Job, rescue};
use crate::telemetry::chain;
use net::{CLEAN_UP_LIMIT, Policy};
use s3_client::{self as s3, Object, Store, put};

/// Writes and removes an object in the bucket of the result, as publishing will. A refusal ends the job;
/// where nobody answers the job may go on, with a warning for its users.
pub(super) async fn check(job: &Job, store: &Store) -> anyhow::Result<Option<String>> {
    let (bucket, stop) = (&job.contract.s3.bucket, &job.reporter.stop);
    let written = write(store, bucket, job.contract.job_id, stop).await;
    job.probe_left.store(written.is_err(), Ordering::Relaxed);
    let unanswered = match written {
        Ok(()) => None,
        Err(error) if !stop.is_cancelled() && error.is_transient() => Some(warn(&error)),
        Err(error) => return Err(error).context("this job would not be able to publish its image"),
    };
    let unsaved = rescue::check(job, store).await.err().map(|error| {
        let why = chain(error.as_ref());
        let warning = format!("the work will not be saved if the job fails, because {why}");
        tracing::error!("{warning}");
        warning
    });
    let warnings: Vec<String> = unanswered.into_iter().chain(unsaved).collect();
    Ok((!warnings.is_empty()).then(|| warnings.join("; ")))
}

/// Removes what could not be removed before, or what a killed run has left.
pub(super) async fn remove(job: &Job, store: &Store) {
    let object = object(&job.contract.s3.bucket, job.contract.job_id);
    let (tidying, never) = (store.with_policy(Policy::CLEAN_UP), CancellationToken::new());
    let removed = timeout(CLEAN_UP_LIMIT, tidying.delete(&object, &never)).await;
    if let Err(error) = removed.unwrap_or(Err(s3::Error::Cancelled)) {
        tracing::warn!(%object, "cannot remove an object, delete it by hand: {}", chain(&error));
    }
}

fn object(bucket: &str, job_id: Uuid) -> Object {
    Object::new(bucket, format!("ims-job-agent-probe/{job_id}"))
}

/// Logs that publishing may fail; gives the text that users see.
pub(super) fn warn(error: &(dyn std::error::Error + 'static)) -> String {
    let warning = format!("publishing the image may fail, because {}", chain(error));
    tracing::warn!("{warning}");
    warning
}

/// The object lies there for a moment; a killed job's is removed by the next run of the job.
pub(super) async fn write(
    store: &Store,
    bucket: &str,
    job_id: Uuid,
    stop: &CancellationToken,
) -> Result<(), s3::Error> {
    let object = object(bucket, job_id);
    let text = b"Made by ims-job-agent to see whether it can write here.\n";
    let written = store.put_bytes(&object, text, &put::Options::default(), stop).await;
    if let Err(error @ s3::Error::Refused { .. }) = &written
        && !error.is_transient()
    {
        return written.map(drop);
    }
    // Not stopped: nothing may be left.
    let tidying = store.with_policy(Policy::CLEAN_UP);
    let never = CancellationToken::new();
    let removed = timeout(CLEAN_UP_LIMIT, tidying.delete(&object, &never)).await;
    written.map(drop).and(removed.unwrap_or(Err(s3::Error::Cancelled)))
}
