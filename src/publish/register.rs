//! Record, uploads, manifest, link, result: in this order, rolled back whole when a step fails.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::boot;
use super::manifest::{Artifact, Kind, Manifest};
use crate::contract::Arch;
use crate::ims::{self, Image, Job, Link};
use crate::net::{CLEAN_UP_LIMIT, Policy};
use crate::s3::put::{Options, Reuse};
use crate::s3::{self, Object, Store, Uploaded};
use crate::telemetry::chain;
use crate::telemetry::progress::{Meter, Unit};

/// How long after a cancellation the answer about a new record is waited for, to roll it back.
const CREATE_GRACE: Duration = Duration::from_secs(5);

/// What is to be published.
#[derive(Debug)]
pub struct Request {
    /// Name of the image record.
    pub image_name: String,
    pub arch: Arch,
    /// `boot-images`.
    pub bucket: String,
    /// Whose `resultant_image_id` the image becomes.
    pub job_id: Option<String>,
    /// The packed root file system.
    pub rootfs: PathBuf,
    /// What of it the store has already.
    pub reuse: Option<Reuse>,
    pub boot: boot::Files,
    /// Published as `changes.json` beside the manifest, which does not name it.
    pub changes: Option<PathBuf>,
    /// Published as `provenance.json`, likewise.
    pub provenance: Option<PathBuf>,
}

/// What is uploaded, opened before the record is made so that a missing file needs no roll-back.
struct Payload {
    rootfs: File,
    reuse: Option<Reuse>,
    boot: boot::Files,
    changes: Option<File>,
    provenance: Option<File>,
}

/// A registered image.
#[derive(Debug, Clone, PartialEq)]
pub struct Published {
    /// The record, with its link.
    pub image: Image,
    /// As the manifest lists them.
    pub artifacts: Vec<Artifact>,
    pub manifest: Artifact,
    /// The job's record after it got the result, if there is a job.
    pub job: Option<Job>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot make the image record")]
    Create(#[source] ims::Error),
    #[error("cannot upload {what}")]
    Upload { what: &'static str, source: s3::Error },
    #[error("cannot link the manifest to image {image_id}")]
    Link { image_id: String, source: ims::Error },
    #[error("cannot set image {image_id} as the result of job {job_id}")]
    Result { image_id: String, job_id: String, source: ims::Error },
    #[error("stopped while publishing")]
    Cancelled,
}

/// Uploads and registers an image.
///
/// On any failure, and when `cancel` fires, the record and all objects are removed again before this
/// returns; what could not be removed is in the log. Once the link is set the image is complete, and
/// `cancel` no longer stops the last step.
pub async fn publish(
    ims: &ims::Client,
    store: &Store,
    request: Request,
    cancel: &CancellationToken,
) -> Result<Published, Error> {
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    let open = |path: &PathBuf| {
        File::open(path).map_err(|source| Error::Open { path: path.clone(), source })
    };
    let rootfs = open(&request.rootfs)?;
    let changes = request.changes.as_ref().map(open).transpose()?;
    let provenance = request.provenance.as_ref().map(open).transpose()?;
    let image = create(ims, &request, cancel).await?;
    tracing::info!(id = image.id, name = request.image_name, "image record made");
    let publication = Publication {
        ims,
        store,
        metadata: metadata(&request, &image),
        bucket: request.bucket,
        image_id: image.id,
        job_id: request.job_id,
    };
    let payload = Payload { rootfs, reuse: request.reuse, boot: request.boot, changes, provenance };
    match publication.run(payload, cancel).await {
        Ok(published) => Ok(published),
        Err(error) => {
            publication.roll_back(&error).await;
            Err(stopped_or(cancel, error))
        }
    }
}

/// Makes the record. `cancel` is followed late: a request that is cut off could leave a record that
/// nobody knows of.
async fn create(
    ims: &ims::Client,
    request: &Request,
    cancel: &CancellationToken,
) -> Result<Image, Error> {
    let never = CancellationToken::new();
    let late = async {
        cancel.cancelled().await;
        sleep(CREATE_GRACE).await;
    };
    tokio::select! {
        image = ims.create_image(&request.image_name, request.arch, &never) => {
            image.map_err(Error::Create)
        }
        () = late => Err(Error::Cancelled),
    }
}

/// One image on its way, from its record on.
struct Publication<'a> {
    ims: &'a ims::Client,
    store: &'a Store,
    bucket: String,
    image_id: String,
    job_id: Option<String>,
    metadata: BTreeMap<String, String>,
}

impl Publication<'_> {
    async fn run(&self, payload: Payload, cancel: &CancellationToken) -> Result<Published, Error> {
        let artifacts = self.upload_all(payload, cancel).await?;
        let manifest = Manifest::new(jiff::Timestamp::now(), artifacts);
        let options = self.options();
        let json = manifest.to_json();
        let uploaded =
            self.store.put_bytes(&self.object(Kind::Manifest), &json, &options, cancel).await;
        let manifest_artifact = self.artifact(Kind::Manifest, uploaded)?;
        let link = &manifest_artifact.link;
        let image = self
            .ims
            .set_image_link(&self.image_id, link, cancel)
            .await
            .map_err(|source| Error::Link { image_id: self.image_id.clone(), source })?;
        tracing::info!(id = self.image_id, manifest = link.path, "image complete");
        let job = self.set_result().await?;
        Ok(Published { image, artifacts: manifest.artifacts, manifest: manifest_artifact, job })
    }

    /// Uploads the artifacts in the order of the manifest, then what it does not list.
    async fn upload_all(
        &self,
        payload: Payload,
        cancel: &CancellationToken,
    ) -> Result<Vec<Artifact>, Error> {
        let Payload { rootfs, mut reuse, boot, changes, provenance } = payload;
        let files = [
            (Kind::Rootfs, Some(rootfs)),
            (Kind::Kernel, boot.kernel),
            (Kind::Initrd, boot.initrd),
            (Kind::DebugKernel, boot.debug_kernel),
            (Kind::BootParameters, boot.parameters),
            (Kind::Changes, changes),
            (Kind::Provenance, provenance),
        ];
        let files: Vec<_> =
            files.into_iter().filter_map(|(kind, file)| Some((kind, file?))).collect();
        let sizes = files.iter().filter_map(|(_, file)| Some(file.metadata().ok()?.len()));
        let meter = Meter::start("upload", Unit::Bytes, sizes.sum());
        let mut artifacts = Vec::new();
        for (kind, file) in files {
            let object = self.object(kind);
            let reuse = if kind == Kind::Rootfs { reuse.take() } else { None };
            let options = Options { reuse, ..self.options() };
            let uploaded = self.store.put_file(&object, file, &options, &meter, cancel).await;
            let artifact = self.artifact(kind, uploaded)?;
            if !Kind::HISTORY.contains(&kind) {
                artifacts.push(artifact);
            }
        }
        meter.finish();
        Ok(artifacts)
    }

    /// Not cancellable: the image is complete, and a patch that is cut off half-way could leave the
    /// job with the id of an image that is rolled back.
    async fn set_result(&self) -> Result<Option<Job>, Error> {
        let Some(job_id) = &self.job_id else { return Ok(None) };
        let set = self.ims.set_job_result(job_id, &self.image_id, &CancellationToken::new()).await;
        set.map(Some).map_err(|source| Error::Result {
            image_id: self.image_id.clone(),
            job_id: job_id.clone(),
            source,
        })
    }

    async fn roll_back(&self, error: &Error) {
        let is_linked = matches!(error, Error::Link { .. } | Error::Result { .. });
        withdraw(self.ims, self.store, &self.bucket, &self.image_id, is_linked).await;
    }

    fn options(&self) -> Options {
        Options { metadata: self.metadata.clone(), ..Options::default() }
    }

    fn object(&self, kind: Kind) -> Object {
        Object::new(&self.bucket, format!("{}/{}", self.image_id, kind.key_name()))
    }

    fn artifact(
        &self,
        kind: Kind,
        uploaded: Result<Uploaded, s3::Error>,
    ) -> Result<Artifact, Error> {
        let uploaded =
            uploaded.map_err(|source| Error::Upload { what: kind.key_name(), source })?;
        let link = Link::s3(self.object(kind).to_string(), uploaded.etag);
        tracing::info!(
            path = link.path,
            etag = link.etag,
            size = uploaded.size,
            copied = uploaded.copied,
            "uploaded, verified"
        );
        Ok(Artifact { link, media_type: kind.media_type().to_owned(), md5: uploaded.md5 })
    }
}

/// Removes an image's record, then its objects; what could not be removed is in the log.
///
/// `may_be_linked`: the record may name the objects, which stay then for as long as it does.
pub async fn withdraw(
    ims: &ims::Client,
    store: &Store,
    bucket: &str,
    image_id: &str,
    may_be_linked: bool,
) {
    let never = CancellationToken::new();
    let prefix = format!("{image_id}/");
    let ims = ims.with_policy(Policy::CLEAN_UP);
    let deleted = timeout(CLEAN_UP_LIMIT, ims.delete_image(image_id, &never)).await;
    if let Err(left) = deleted.unwrap_or(Err(ims::Error::Cancelled)) {
        tracing::error!(
            image = image_id,
            objects = format!("s3://{bucket}/{prefix}"),
            error = %chain(&left),
            "roll-back: the image record is left, delete it by hand"
        );
        // A record that has its link must not name what is gone.
        if may_be_linked {
            return;
        }
    }
    let store = store.with_policy(Policy::CLEAN_UP);
    let deleted = store.delete_prefix(bucket, &prefix, &never);
    match timeout(CLEAN_UP_LIMIT, deleted).await.unwrap_or(Err(s3::Error::Cancelled)) {
        Ok(objects) => tracing::info!(image = image_id, objects, "rolled back"),
        Err(error) => tracing::error!(
            objects = format!("s3://{bucket}/{prefix}"),
            error = %chain(&error),
            "roll-back: objects are left, delete them by hand"
        ),
    }
}

/// Object metadata beside `md5sum` (contract section 5).
fn metadata(request: &Request, image: &Image) -> BTreeMap<String, String> {
    let mut metadata = BTreeMap::from([
        ("x-shasta-ims-image-name".to_owned(), header_safe(&request.image_name)),
        ("x-shasta-ims-image-id".to_owned(), header_safe(&image.id)),
    ]);
    if let Some(job_id) = &request.job_id {
        metadata.insert("x-shasta-ims-job-id".to_owned(), header_safe(job_id));
    }
    metadata
}

/// Metadata travels in HTTP headers: a name that is not plain ASCII is percent-encoded.
pub fn header_safe(text: &str) -> String {
    let plain = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    if plain && text.trim() == text {
        return text.to_owned();
    }
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// What a cancelled step failed with does not matter.
fn stopped_or(cancel: &CancellationToken, error: Error) -> Error {
    if cancel.is_cancelled() { Error::Cancelled } else { error }
}

#[cfg(test)]
mod tests {
    use super::header_safe;

    #[test]
    fn metadata_fits_in_a_header() {
        assert_eq!(header_safe("sles15 barebones (2)"), "sles15 barebones (2)");
        assert_eq!(header_safe("Größe\n"), "Gr%C3%B6%C3%9Fe%0A");
        assert_eq!(header_safe(" x"), "+x");
    }
}
