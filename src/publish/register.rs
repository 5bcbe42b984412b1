//! Record, uploads, manifest, link, result: in this order, rolled back completely when a step
//! fails.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::journal::{self, Entry, Journal, Stage};
use super::manifest::{Artifact, Kind, Manifest};
use super::{boot, earlier};
use crate::telemetry::chain;
use crate::telemetry::progress::{Meter, Unit};
use ims_client::Arch;
use ims_client::{self as ims, Image, Job, Link};
use net::{CLEAN_UP_LIMIT, Policy};
use s3_client::put::{Options, Reuse};
use s3_client::{self as s3, Object, Store, Uploaded};

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
    /// The journal of this publication, for the next run after a process that was killed.
    pub journal: Journal,
}

/// What is uploaded, opened before the record is created so that a missing file needs no rollback.
struct Payload {
    rootfs: File,
    reuse: Option<Reuse>,
    boot: boot::Files,
    changes: Option<File>,
    provenance: Option<File>,
}

impl Payload {
    fn open(request: &Request) -> Result<Self, Error> {
        let open = |path: &PathBuf| {
            File::open(path).map_err(|source| Error::Open { path: path.clone(), source })
        };
        let boot = request.boot.try_clone();
        Ok(Self {
            rootfs: open(&request.rootfs)?,
            reuse: request.reuse.clone(),
            boot: boot.map_err(|source| Error::Open { path: "/boot".into(), source })?,
            changes: request.changes.as_ref().map(open).transpose()?,
            provenance: request.provenance.as_ref().map(open).transpose()?,
        })
    }
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
    #[error(transparent)]
    Journal(#[from] journal::Error),
    #[error("cannot check image {image_id} of an earlier run")]
    Earlier { image_id: String, source: ims::Error },
    #[error("cannot roll back the incomplete image {image_id} of an earlier run; the log says why")]
    Left { image_id: String },
    #[error("cannot read image {image_id} of an earlier run: {why}")]
    Unreadable { image_id: String, why: String },
    #[error("cannot create the image record")]
    Create(#[source] ims::Error),
    #[error("cannot upload {what}")]
    Upload { what: &'static str, source: s3::Error },
    #[error("cannot link the manifest to image {image_id}")]
    Link { image_id: String, source: ims::Error },
    #[error(
        "image {image_id} is complete and registered, but it cannot be set as the result of job {job_id}"
    )]
    Result { image_id: String, job_id: String, source: ims::Error },
    #[error("cancelled while publishing")]
    Cancelled,
}

/// Uploads and registers an image; or finishes what the journal says of an earlier process.
///
/// On any failure before the link is set, and when `cancel` fires, the record and all objects are removed
/// again before this returns; what could not be removed is in the log, and in the journal for another try.
/// Once the link is set the image is complete and stays, and `cancel` no longer stops the last step.
pub async fn publish(
    ims: &ims::Client,
    store: &Store,
    request: Request,
    cancel: &CancellationToken,
) -> Result<Published, Error> {
    if cancel.is_cancelled() {
        return Err(Error::Cancelled);
    }
    // What is lost with a service that restarts now is hours of a user's work.
    let (ims, store) = (&ims.with_long_deadline(), &store.with_long_deadline());
    let earlier = request.journal.load()?;
    if let Some(image) =
        Box::pin(earlier::finish_or_roll_back(ims, store, &request.journal, cancel)).await?
    {
        return Box::pin(finish(ims, store, &request, image, cancel)).await;
    }
    let published = Box::pin(make(ims, store, &request, cancel)).await;
    if let Some(entry) = earlier.filter(|entry| entry.image_id.is_none()) {
        // A service that was slow may have made the record of that process only now.
        forget(ims, &request, entry.begun).await;
    }
    published
}

/// The image of an earlier process is complete: what is left is to say so.
async fn finish(
    ims: &ims::Client,
    store: &Store,
    request: &Request,
    image: Image,
    cancel: &CancellationToken,
) -> Result<Published, Error> {
    tracing::info!(image = image.id, "an earlier run has published its image");
    let publication = Publication::of(ims, store, request, &image);
    let job = publication.set_result(cancel).await?;
    let image_id = image.id.clone();
    let published = earlier::read(image, job, store, cancel).await;
    let published =
        published.map_err(|error| Error::Unreadable { image_id, why: format!("{error:#}") })?;
    request.journal.remove()?;
    Ok(published)
}

async fn make(
    ims: &ims::Client,
    store: &Store,
    request: &Request,
    cancel: &CancellationToken,
) -> Result<Published, Error> {
    let payload = Payload::open(request)?;
    let job_id = request.job_id.as_deref();
    let mut entry = Entry::new(&request.image_name, request.arch, &request.bucket, job_id);
    request.journal.save(&entry)?;
    let image = match create(ims, request, cancel).await {
        Ok(image) => image,
        Err(Uncreated { error, may_exist }) => {
            // If it may exist, another try looks for it.
            if !may_exist {
                request.journal.remove()?;
            }
            return Err(error);
        }
    };
    tracing::info!(id = image.id, name = request.image_name, "image record created");
    (entry.stage, entry.image_id) = (Stage::Uploading, Some(image.id.clone()));
    let mut publication = Publication::of(ims, store, request, &image);
    let result = match request.journal.save(&entry) {
        Ok(()) => publication.run(payload, &mut entry, &request.journal, cancel).await,
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(published) => {
            request.journal.remove()?;
            Ok(published)
        }
        // A linked image is what the user wanted, even if this could not be reported.
        Err(error) if publication.linked => Err(error),
        Err(error) => {
            if publication.roll_back(&error).await {
                request.journal.remove()?;
            }
            Err(stopped_or(cancel, error))
        }
    }
}

/// Why there is no record that is known.
struct Uncreated {
    error: Error,
    /// IMS did not say whether it has one.
    may_exist: bool,
}

/// Creates the record. It reacts late to `cancel`: an interrupted request could leave an unknown
/// record.
async fn create(
    ims: &ims::Client,
    request: &Request,
    cancel: &CancellationToken,
) -> Result<Image, Uncreated> {
    let begun = Timestamp::now();
    let never = CancellationToken::new();
    let late = async {
        cancel.cancelled().await;
        sleep(CREATE_GRACE).await;
    };
    let error = tokio::select! {
        image = ims.create_image(&request.image_name, request.arch, &never) => match image {
            Ok(image) => return Ok(image),
            Err(error) if !error.is_ambiguous() => {
                return Err(Uncreated { error: Error::Create(error), may_exist: false });
            }
            Err(error) => Error::Create(error),
        },
        () = late => Error::Cancelled,
    };
    let may_exist = !forget(ims, request, begun).await;
    Err(Uncreated { error, may_exist })
}

/// Removes the record that a request without an answer may have made. `false` if IMS did not say whether it
/// has one.
async fn forget(ims: &ims::Client, request: &Request, begun: Timestamp) -> bool {
    let (name, never) = (&request.image_name, CancellationToken::new());
    let ims = ims.with_policy(Policy::CLEAN_UP);
    let removed = async {
        let made = ims.images_made(name, request.arch, begun, &never).await?;
        let [image] = &made[..] else { return Ok(None) };
        ims.delete_image(&image.id, &never).await?;
        Ok(Some(image.id.clone()))
    };
    let removed = timeout(CLEAN_UP_LIMIT, removed).await.unwrap_or(Err(ims::Error::Cancelled));
    match &removed {
        Ok(Some(id)) => tracing::info!(id, name, "rolled back: the image record had been created"),
        // IMS may still be at it, and of several records none is surely ours.
        Ok(None) => tracing::error!(
            name,
            "no response about the new image record: if IMS has one without a link, delete it by \
             hand"
        ),
        Err(error) => tracing::error!(
            name,
            error = %chain(error),
            "no response about the new image record: if IMS has one without a link, delete it by \
             hand"
        ),
    }
    removed.is_ok()
}

/// One image on its way, from its record on.
struct Publication<'a> {
    ims: &'a ims::Client,
    store: &'a Store,
    bucket: String,
    image_id: String,
    job_id: Option<String>,
    metadata: BTreeMap<String, String>,
    /// The image is complete: nothing is rolled back any more.
    linked: bool,
}

impl<'a> Publication<'a> {
    fn of(ims: &'a ims::Client, store: &'a Store, request: &Request, image: &Image) -> Self {
        Self {
            ims,
            store,
            bucket: request.bucket.clone(),
            image_id: image.id.clone(),
            job_id: request.job_id.clone(),
            metadata: metadata(request, image),
            linked: image.link.is_some(),
        }
    }

    async fn run(
        &mut self,
        payload: Payload,
        entry: &mut Entry,
        journal: &Journal,
        cancel: &CancellationToken,
    ) -> Result<Published, Error> {
        let artifacts = self.upload_all(payload, cancel).await?;
        let manifest = Manifest::new(Timestamp::now(), artifacts);
        let options = self.options();
        let json = manifest.to_json();
        let uploaded =
            self.store.put_bytes(&self.object(Kind::Manifest), &json, &options, cancel).await;
        let manifest_artifact = self.artifact(Kind::Manifest, uploaded)?;
        let link = &manifest_artifact.link;
        let image = self.set_link(link, cancel).await?;
        self.linked = true;
        entry.stage = Stage::Linked;
        if let Err(error) = journal.save(entry) {
            // The record says it as well.
            tracing::warn!(
                "cannot record in the journal that the image is complete: {}",
                chain(&error)
            );
        }
        tracing::info!(id = self.image_id, manifest = link.path, "image complete");
        let job = self.set_result(cancel).await?;
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

    /// Sets the link. Where no answer says whether it is set, the record does.
    async fn set_link(&self, link: &Link, cancel: &CancellationToken) -> Result<Image, Error> {
        let source = match self.ims.set_image_link(&self.image_id, link, cancel).await {
            Ok(image) => return Ok(image),
            Err(error) => error,
        };
        let id = &self.image_id;
        let look = async |ims: ims::Client, stop| ims.image(id, &stop).await;
        match self.look(look).await {
            Some(image) if image.link.as_ref() == Some(link) => Ok(image),
            _ => Err(Error::Link { image_id: id.clone(), source }),
        }
    }

    /// Not stopped by `cancel`: the image is complete. Where no answer says whether the job has its
    /// result, the record does.
    async fn set_result(&self, cancel: &CancellationToken) -> Result<Option<Job>, Error> {
        let Some(job_id) = &self.job_id else { return Ok(None) };
        let id = &self.image_id;
        let set =
            |ims: ims::Client, stop| async move { ims.set_job_result(job_id, id, &stop).await };
        let source = match self.ims.retry_past_shutdown(cancel, set).await {
            Ok(job) => return Ok(Some(job)),
            Err(error) => error,
        };
        let look = async |ims: ims::Client, stop| ims.job(job_id, &stop).await;
        match self.look(look).await {
            Some(job) if job.resultant_image_id.as_ref() == Some(id) => Ok(Some(job)),
            _ => Err(Error::Result { image_id: id.clone(), job_id: job_id.clone(), source }),
        }
    }

    /// Reads a record after a failure; `None`, and a line in the log, where that fails as well.
    async fn look<T>(
        &self,
        record: impl AsyncFnOnce(ims::Client, CancellationToken) -> Result<T, ims::Error>,
    ) -> Option<T> {
        let ims = self.ims.with_policy(Policy::CLEAN_UP);
        let looked = timeout(CLEAN_UP_LIMIT, record(ims, CancellationToken::new())).await;
        looked
            .unwrap_or(Err(ims::Error::Cancelled))
            .inspect_err(|error| {
                tracing::warn!(error = %chain(error), "cannot check the state of the image before \
                    changing it");
            })
            .ok()
    }

    /// True if nothing is left.
    async fn roll_back(&self, error: &Error) -> bool {
        let may_be_linked = matches!(error, Error::Link { .. });
        withdraw(self.ims, self.store, &self.bucket, &self.image_id, may_be_linked).await
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

/// Removes an image's record, then its objects and open uploads; true if nothing is left. What could not be
/// removed is in the log.
///
/// `may_be_linked`: the record may name the objects, which stay then for as long as it does.
pub async fn withdraw(
    ims: &ims::Client,
    store: &Store,
    bucket: &str,
    image_id: &str,
    may_be_linked: bool,
) -> bool {
    let never = CancellationToken::new();
    let prefix = format!("{image_id}/");
    let ims = ims.with_policy(Policy::CLEAN_UP);
    let deleted = timeout(CLEAN_UP_LIMIT, ims.delete_image(image_id, &never)).await;
    let deleted = deleted.unwrap_or(Err(ims::Error::Cancelled));
    if let Err(left) = &deleted {
        tracing::error!(
            image = image_id,
            objects = format!("s3://{bucket}/{prefix}"),
            error = %chain(left),
            "cannot roll back the image record, delete it by hand"
        );
        // A record with its link must not name deleted objects.
        if may_be_linked {
            return false;
        }
    }
    let store = store.with_policy(Policy::CLEAN_UP);
    let removed = store.delete_prefix_settled(bucket, &prefix, &never);
    match timeout(CLEAN_UP_LIMIT, removed).await.unwrap_or(Err(s3::Error::Cancelled)) {
        Ok(objects) => {
            tracing::info!(image = image_id, objects, "rolled back");
            deleted.is_ok()
        }
        Err(error) => {
            tracing::error!(
                objects = format!("s3://{bucket}/{prefix}"),
                error = %chain(&error),
                "cannot roll back all objects, delete them by hand"
            );
            false
        }
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
