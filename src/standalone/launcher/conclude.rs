//! Ends a job whose agent has not reported its end: what it began to publish is rolled back, or is
//! the result if it is complete.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Inner;
use crate::standalone::records::{self, Image, Job};
use crate::telemetry::chain;
use crate::workspace::Layout;
use ims_client::Status;

/// What the agent writes down before it makes anything outside of its directory.
const JOURNAL: &str = "publication.json";
const JOURNAL_LIMIT: u64 = 64 * 1024;
/// Where images are published.
const BUCKET: &str = "boot-images";
/// Metadata of what a job uploads.
const JOB_ID: &str = "x-shasta-ims-job-id";

/// Between two tries to store a status.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Journal {
    image_id: Option<Uuid>,
}

impl Inner {
    /// Gives a job that has no final status one, and leaves nothing half published. Tries until that is
    /// stored, or `stop`.
    pub(super) async fn conclude(&self, job: Uuid, reason: &str, stop: &CancellationToken) {
        let mut pause = FIRST_PAUSE;
        while let Err(error) = self.try_to_conclude(job, reason).await {
            tracing::error!(%job, error = %chain(&error), "cannot set the status of a job");
            if tokio::time::timeout(pause, stop.cancelled()).await.is_ok() {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn try_to_conclude(&self, job: Uuid, reason: &str) -> Result<(), records::Error> {
        let records = &self.setup.records;
        let record = records.get::<Job>(job).await?;
        let Some(record) = record.filter(|record| !record.status.is_terminal()) else {
            return Ok(());
        };
        let result = self.withdraw(&record).await.unwrap_or_else(|error| {
            tracing::error!(
                %job,
                error,
                "cannot roll back what the job began to publish; delete by hand what is left: an \
                 image without a link, objects below its id, unfinished uploads"
            );
            None
        });
        let changed = records.update(job, move |record: &mut Job| {
            let unfinished = !record.status.is_terminal();
            if unfinished {
                record.status = if result.is_some() { Status::Success } else { Status::Error };
                record.resultant_image_id = result.or(record.resultant_image_id);
            }
            unfinished
        });
        if let Some((_, true)) = changed.await? {
            match result {
                Some(image) => {
                    tracing::info!(%job, %image, reason, "the job has already published its image")
                }
                None => tracing::error!(%job, reason, "job failed"),
            }
        }
        Ok(())
    }

    /// Removes the images without a link that a job has made, with all that is in the store for them.
    /// Gives the one that is complete instead, if there is one.
    async fn withdraw(&self, job: &Job) -> Result<Option<Uuid>, String> {
        let said = |error: records::Error| chain(&error);
        if let Some(result) = job.resultant_image_id {
            return Ok(Some(result));
        }
        let written = journal(&Layout::new(&self.directory(job.id).mnt()).agent());
        let (mut images, mut recorded) = (Vec::new(), false);
        for image in self.setup.records.list::<Image>().await.map_err(said)? {
            if written == Some(image.id) {
                recorded = true;
                // One that is older cannot be what this job has made.
                if image.created < job.created {
                    continue;
                }
                if image.link.is_some() {
                    return Ok(Some(image.id));
                }
                images.push(image.id);
            } else if self.is_of(&image, job).await? {
                images.push(image.id);
            }
        }
        // Its record may be deleted while its objects still exist.
        images.extend(written.filter(|_| !recorded));
        for image in images {
            let below = format!("{image}/");
            let objects = &self.setup.objects;
            let (objects, uploads) =
                objects.delete_below(BUCKET, &below).await.map_err(|error| chain(&error))?;
            let record = self.setup.records.remove::<Image>(image).await.map_err(said)?;
            tracing::warn!(
                job = %job.id, %image, record, objects, uploads,
                "rolled back what the job began to publish"
            );
        }
        Ok(None)
    }

    /// Whether objects of an image without a link say that this job has made them.
    async fn is_of(&self, image: &Image, job: &Job) -> Result<bool, String> {
        let possible = image.link.is_none()
            && image.created >= job.created
            && image.name == job.image_root_archive_name;
        if !possible {
            return Ok(false);
        }
        let below = format!("{}/", image.id);
        let found = self.setup.objects.metadata_below(BUCKET, &below).await;
        let found = found.map_err(|error| chain(&error))?;
        let id = job.id.to_string();
        Ok(found.iter().any(|metadata| metadata.get(JOB_ID) == Some(&id)))
    }
}

/// The image that the agent has recorded.
fn journal(agent: &Path) -> Option<Uuid> {
    let path = agent.join(JOURNAL);
    let mut json = Vec::new();
    let file = std::fs::File::open(&path).ok()?;
    file.take(JOURNAL_LIMIT).read_to_end(&mut json).ok()?;
    match serde_json::from_slice::<Journal>(&json) {
        Ok(journal) => journal.image_id,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot determine what a job began to \
                publish");
            None
        }
    }
}
