//! Holds a job whose image IMS or the store refuses, until the site has repaired the cause.
//!
//! Credentials, CA and endpoint are read again for each try. Between two tries a small write tests
//! whether the store accepts data, so that an image is not uploaded only to be refused again.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::package::{Destination, Packed};
use super::{Job, connect, preflight};
use crate::attend::limits::{Time, until};
use crate::publish::{self, Published};
use crate::telemetry::chain;
use crate::telemetry::status::{Board, Hold};
use ims_client::{self};
use ims_client::{self as ims, Link};
use s3_client as s3;

/// Pause after the first refusal; doubled after each further one...
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// ...up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Whether IMS, the store or a full volume is why publishing failed, and not the image or the job.
pub(super) fn is_repairable(error: &anyhow::Error) -> bool {
    if let Some(publish::Error::Result { source, .. }) = error.downcast_ref()
        && source.status() == Some(404)
    {
        // Nobody can repair that the job was deleted.
        return false;
    }
    if error.is::<Unconnected>()
        || matches!(error.downcast_ref(), Some(publish::Error::Left { .. }))
    {
        return true;
    }
    error.chain().any(|cause| {
        cause.downcast_ref().is_some_and(s3::Error::is_repairable)
            || cause.downcast_ref().is_some_and(ims::Error::is_repairable)
            || cause.downcast_ref().is_some_and(is_full)
    })
}

/// Credentials or a CA cannot be read now: they may be about to be replaced.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to IMS and the store")]
struct Unconnected;

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A job that is held.
pub(super) struct Held<'a> {
    job: &'a Job,
    reason: String,
    begun: (Instant, Timestamp),
    pause: Duration,
}

impl<'a> Held<'a> {
    /// Holds the job, if what failed can be repaired and the site wants that; else gives `error` back.
    pub fn begin(job: &'a Job, error: anyhow::Error) -> anyhow::Result<Self> {
        let stopped = job.reporter.stop.is_cancelled();
        if stopped || job.contract.safekeeping.hold.is_zero() || !is_repairable(&error) {
            return Err(error);
        }
        let begun = (Instant::now(), Timestamp::now());
        let held = Self { job, reason: chain(error.as_ref()), begun, pause: FIRST_PAUSE };
        tracing::error!(
            until = %held.until(),
            "the job is held until this is repaired, and keeps retrying: {}",
            held.reason
        );
        held.show();
        Ok(held)
    }

    pub fn reason(&self) -> String {
        format!("{} (held until {}, then the job ends with an error)", self.reason, self.until())
    }

    /// Tries until the image is published, `stop` is cancelled or the patience is over.
    pub async fn publish(
        mut self,
        packed: &Packed,
        base: Option<&Link>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Published> {
        let published = self.try_on(packed, base, stop).await;
        self.job.reporter.board.set_hold(None);
        if published.is_ok() {
            let after = Time(Duration::from_secs(self.begun.0.elapsed().as_secs())).to_string();
            tracing::info!(after, "the problem that held the job is repaired");
        }
        published
    }

    async fn try_on(
        &mut self,
        packed: &Packed,
        base: Option<&Link>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Published> {
        loop {
            if stop.run_until_cancelled(sleep(self.pause)).await.is_none() {
                anyhow::bail!("cancelled while the job was held: {}", self.reason);
            }
            let error = match self.try_once(packed, base, stop).await {
                Ok(published) => return Ok(published),
                Err(error) => error,
            };
            if stop.is_cancelled() || !is_repairable(&error) {
                return Err(error);
            }
            let patience = self.job.contract.safekeeping.hold;
            if self.begun.0.elapsed() >= patience {
                return Err(error.context(format!(
                    "nobody repaired this within {} (IMS_JOB_HOLD)",
                    Time(patience)
                )));
            }
            self.refused_again(&error);
            let left = patience.saturating_sub(self.begun.0.elapsed());
            self.pause = (self.pause * 2).min(LONGEST_PAUSE).min(left.max(FIRST_PAUSE / 4));
        }
    }

    async fn try_once(
        &self,
        packed: &Packed,
        base: Option<&Link>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Published> {
        let (job, contract) = (self.job, &self.job.contract);
        job.reporter.renew().context(Unconnected)?;
        job.reporter.report_missed().await;
        let store = connect::store(&contract.s3, contract.ims.timeout).context(Unconnected)?;
        let probing = preflight::write(&store, &contract.s3.bucket, contract.job_id, stop);
        Box::pin(probing).await.inspect_err(|_| job.probe_left.store(true, Ordering::Relaxed))?;
        let to = Destination::of(job);
        Box::pin(to.publish(packed, base, &job.reporter, &store, stop)).await
    }

    fn refused_again(&mut self, error: &anyhow::Error) {
        let reason = chain(error.as_ref());
        if reason == self.reason {
            tracing::info!(until = %self.until(), "the job is still held for the same reason");
        } else {
            tracing::error!(until = %self.until(), "the job is still held: {reason}");
            self.reason = reason;
            self.show();
        }
    }

    fn show(&self) {
        self.job.reporter.board.set_hold(Some(Hold {
            reason: self.reason.clone(),
            since: self.begun.1,
            until: self.until(),
        }));
    }

    fn until(&self) -> Timestamp {
        until(self.begun.1, self.job.contract.safekeeping.hold)
    }
}

/// Counts the tries to report a status that IMS refuses.
pub(super) struct Insisting<'a> {
    board: &'a Board,
    stop: &'a CancellationToken,
    patience: Duration,
    begun: (Instant, Timestamp),
    pause: Duration,
}

impl<'a> Insisting<'a> {
    pub fn new(board: &'a Board, stop: &'a CancellationToken, patience: Duration) -> Self {
        let begun = (Instant::now(), Timestamp::now());
        Self { board, stop, patience, begun, pause: FIRST_PAUSE }
    }

    /// Waits until the next try is due; gives `error` back when there is none.
    pub async fn refused(&mut self, error: ims::Error) -> Result<(), ims::Error> {
        let repairable = error.is_repairable() && error.status() != Some(404);
        if !repairable || self.stop.is_cancelled() || self.begun.0.elapsed() >= self.patience {
            return Err(error);
        }
        let (reason, until) = (chain(&error), until(self.begun.1, self.patience));
        tracing::error!(%until, "cannot report the job's status, retrying: {reason}");
        self.board.set_hold(Some(Hold { reason, since: self.begun.1, until }));
        let _ = self.stop.run_until_cancelled(sleep(self.pause)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }
}
