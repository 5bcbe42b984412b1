//! Where the job's image comes from, and how it gets to the job's directory.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::Job;
use crate::ims;
use crate::publish::manifest::{self, Artifact, Manifest};
use crate::s3::get::{self, Downloaded, Source, SourceError};
use crate::s3::{Object, Store};
use crate::telemetry::progress::{Meter, Unit};

/// Downloads the image of the job to `path`, verified.
pub(super) async fn image(job: &Job, store: &Store, path: &Path) -> anyhow::Result<Downloaded> {
    let lookup = Lookup {
        ims: job.reporter.ims.clone(),
        store: store.clone(),
        job_id: job.contract.job_id.to_string(),
        stop: job.reporter.stop.clone(),
    };
    let mut options = get::Options { md5: job.contract.download.md5.clone(), ..Default::default() };
    let given = job.contract.download.url.clone();
    if given.is_none() {
        let rootfs = lookup.rootfs().await.context("cannot find out which image to fetch")?;
        options.md5 = options.md5.or(Some(rootfs.md5));
        options.etag = Some(rootfs.link.etag).filter(|etag| !etag.is_empty());
    }
    let source = Arc::new(JobImage { given: given.into(), lookup });
    let meter = Meter::start("fetch", Unit::Bytes, 0);
    job.reporter.board.watch(&meter);
    get::to_file(store.http(), source, path, &options, &meter, &job.reporter.stop)
        .await
        .context("cannot fetch the image")
}

/// The presigned URL that the pod was given, for as long as it works; then one of our own.
struct JobImage {
    given: std::sync::Mutex<Option<Url>>,
    lookup: Lookup,
}

#[async_trait]
impl Source for JobImage {
    async fn url(&self) -> Result<Url, SourceError> {
        // Asked again means refused: the given URL is used once.
        let given = self.given.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        match given {
            Some(url) => Ok(url),
            None => Ok(self.lookup.url().await?),
        }
    }
}

/// Finds the image in the records: job, artifact, manifest, root file system.
pub(super) struct Lookup {
    pub ims: ims::Client,
    pub store: Store,
    pub job_id: String,
    pub stop: CancellationToken,
}

impl Lookup {
    async fn url(&self) -> anyhow::Result<Url> {
        let rootfs = self.rootfs().await?;
        let object: Object = rootfs.link.path.parse()?;
        Ok(self.store.presign_get(&object).await?)
    }

    /// The root file system of the image that the job customizes.
    pub async fn rootfs(&self) -> anyhow::Result<Artifact> {
        let job = self.ims.job(&self.job_id, &self.stop).await?;
        let image = self.ims.image(&job.artifact_id, &self.stop).await?;
        let link = image
            .link
            .with_context(|| format!("image {} has no manifest linked to it", image.id))?;
        let object: Object = link.path.parse()?;
        let json = self.store.get_bytes(&object, manifest::SIZE_LIMIT, &self.stop).await?;
        let manifest = Manifest::parse(&json)
            .with_context(|| format!("the manifest {object} cannot be used"))?;
        Ok(manifest
            .rootfs()
            .with_context(|| format!("the manifest {object} cannot be used"))?
            .clone())
    }
}
