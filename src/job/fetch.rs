//! Finds the job's image or recipe and downloads it to the job's directory.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::Job;
use crate::publish::manifest::{self, Artifact, Manifest};
use crate::telemetry::progress::{Meter, Unit};
use ims_client as ims;
use s3_client::get::{self, Downloaded, Source, SourceError};
use s3_client::{Object, Store};

/// Downloads the image of the job to `path`, verified.
pub(super) async fn image(job: &Job, store: &Store, path: &Path) -> anyhow::Result<Downloaded> {
    fetch(job, store, path, What::Image).await.context("cannot fetch the image")
}

/// Downloads the archive of the job's recipe to `path`, verified.
pub(super) async fn recipe(job: &Job, store: &Store, path: &Path) -> anyhow::Result<Downloaded> {
    fetch(job, store, path, What::Recipe).await.context("cannot fetch the recipe")
}

/// What a job works on.
#[derive(Debug, Clone, Copy)]
enum What {
    Image,
    Recipe,
}

async fn fetch(job: &Job, store: &Store, path: &Path, what: What) -> anyhow::Result<Downloaded> {
    let (source, options) = JobSource::new(job, store, what).await?;
    let meter = Meter::start("fetch", Unit::Bytes, 0);
    job.reporter.board.watch(&meter);
    let (source, stop) = (Arc::new(source), &job.reporter.stop);
    let fetched = get::to_file(store.http(), source, path, &options, &meter, stop).await?;
    meter.finish();
    Ok(fetched)
}

/// The presigned URL that the pod was given, for as long as it works; then one of our own.
pub(super) struct JobSource {
    given: std::sync::Mutex<Option<Url>>,
    what: What,
    lookup: Lookup,
}

impl JobSource {
    /// The image of a job that somebody else fetches, and what is known of it.
    pub async fn image(job: &Job, store: &Store) -> anyhow::Result<(Self, get::Options)> {
        Self::new(job, store, What::Image).await
    }

    async fn new(job: &Job, store: &Store, what: What) -> anyhow::Result<(Self, get::Options)> {
        let lookup = Lookup {
            ims: job.reporter.ims(),
            store: store.clone(),
            job_id: job.contract.job_id.to_string(),
            stop: job.reporter.stop.clone(),
        };
        let (md5, policy) = (job.contract.download.md5.clone(), store.policy());
        let mut options = get::Options { md5, policy, ..Default::default() };
        let given = job.contract.download.url.clone();
        if given.is_none() {
            let found = lookup.object(what).await.context("cannot determine what to download")?;
            options.md5 = options.md5.or(found.md5);
            options.etag = Some(found.link.etag).filter(|etag| !etag.is_empty());
        }
        Ok((Self { given: given.into(), what, lookup }, options))
    }
}

#[async_trait]
impl Source for JobSource {
    async fn url(&self) -> Result<Url, SourceError> {
        // Asked again means refused: the given URL is used once.
        let given = self.given.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        match given {
            Some(url) => Ok(url),
            None => Ok(self.lookup.url(self.what).await?),
        }
    }
}

/// Where an object lies, and what is known of it.
struct Found {
    link: ims::Link,
    md5: Option<String>,
}

/// Finds the object in the records: job, image, manifest, root file system; or job, recipe.
pub(super) struct Lookup {
    pub ims: ims::Client,
    pub store: Store,
    pub job_id: String,
    pub stop: CancellationToken,
}

impl Lookup {
    async fn url(&self, what: What) -> anyhow::Result<Url> {
        let object: Object = self.object(what).await?.link.path.parse()?;
        Ok(self.store.presign_get(&object).await?)
    }

    async fn object(&self, what: What) -> anyhow::Result<Found> {
        match what {
            What::Image => {
                let rootfs = self.rootfs().await?;
                Ok(Found { link: rootfs.link, md5: Some(rootfs.md5) })
            }
            What::Recipe => Ok(Found { link: self.recipe().await?, md5: None }),
        }
    }

    /// The archive of the recipe that the job builds.
    async fn recipe(&self) -> anyhow::Result<ims::Link> {
        let job = self.ims.job(&self.job_id, &self.stop).await?;
        let recipe = self.ims.recipe(&job.artifact_id, &self.stop).await?;
        let none = || format!("recipe {} has no archive linked to it", recipe.id);
        recipe.link.with_context(none)
    }

    /// The root file system of the image that the job customizes.
    pub async fn rootfs(&self) -> anyhow::Result<Artifact> {
        let job = self.ims.job(&self.job_id, &self.stop).await?;
        let image = self.ims.image(&job.artifact_id, &self.stop).await?;
        rootfs(&self.store, &image, &self.stop).await
    }
}

/// The root file system of an image, by its manifest.
pub(super) async fn rootfs(
    store: &Store,
    image: &ims::Image,
    stop: &CancellationToken,
) -> anyhow::Result<Artifact> {
    let link = image
        .link
        .as_ref()
        .with_context(|| format!("image {} has no manifest linked to it", image.id))?;
    let object: Object = link.path.parse()?;
    let json = store.get_bytes(&object, manifest::SIZE_LIMIT, stop).await?;
    let unusable = || format!("the manifest {object} is not valid");
    let manifest = Manifest::parse(&json).with_context(unusable)?;
    Ok(manifest.rootfs().with_context(unusable)?.clone())
}
