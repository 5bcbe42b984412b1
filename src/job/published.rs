//! What an earlier run of a job has published: a restarted agent must not publish it again, nor what is
//! left of its root.

use anyhow::Context;
use md5::{Digest, Md5};

use super::Job;
use crate::publish::Published;
use crate::publish::manifest::{self, Artifact, Kind, Manifest};
use crate::s3::{Object, Store};

/// The image that is the job's result already, if there is one.
pub(super) async fn before(job: &Job, store: &Store) -> anyhow::Result<Option<Published>> {
    let (ims, stop) = (&job.reporter.ims().patient(), &job.reporter.stop);
    let record = ims.job(&job.contract.job_id.to_string(), stop).await?;
    let Some(id) = &record.resultant_image_id else { return Ok(None) };
    let image = match ims.image(id, stop).await {
        Err(error) if error.status() == Some(404) => {
            tracing::warn!(image = id, "the job's record names an image that is not there");
            return Ok(None);
        }
        image => image?,
    };
    let link = image.link.clone().with_context(|| format!("image {id} has no manifest"))?;
    let object: Object = link.path.parse()?;
    let json = store.patient().get_bytes(&object, manifest::SIZE_LIMIT, stop).await?;
    let artifacts = Manifest::read(&json)?.artifacts;
    tracing::info!(image = id, "an earlier run of this job has published its image");
    let (media_type, md5) = (Kind::Manifest.media_type().into(), hex::encode(Md5::digest(&json)));
    let manifest = Artifact { link, media_type, md5 };
    Ok(Some(Published { image, artifacts, manifest, job: Some(record) }))
}
