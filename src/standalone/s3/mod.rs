//! The embedded object store: an S3 endpoint over a directory. Started by `standalone`.
//!
//! s3s implements the protocol. Its companion s3s-fs is not used: it replaces an object before it
//! has checked the body's digests, ignores If-Match on reads and Content-MD5 on parts, cannot hold
//! the keys `a` and `a/b` at once, and does not survive a power cut between data and metadata. Here
//! bytes are immutable `blobs` and the `index` changes in transactions: an object is there whole,
//! or not at all.

mod access;
mod blobs;
mod conditions;
mod copy;
mod index;
mod keys;
mod list;
mod listing;
mod model;
mod multipart;
mod note;
mod objects;
mod rebuild;
mod receive;
mod service;
mod uploads;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use s3s::Body;
use s3s::service::{S3Service, S3ServiceBuilder};
use uuid::Uuid;

use super::Keys;
use super::database::{self, Reopened};
use super::grants::Grants;
use crate::telemetry::chain;
use access::Access;
use blobs::{Blobs, Survey};
pub use index::Fault;
use index::Index;
pub use rebuild::{Hint, Report, rebuild};
use service::Service;

/// The buckets IMS uses: recipes and images.
pub const BUCKETS: [&str; 2] = ["ims", "boot-images"];

/// So many blobs may a crash leave that no object uses.
const FEW: usize = 16;

/// Why the embedded store does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use {path} for objects")]
    Directory { path: PathBuf, source: std::io::Error },
    #[error("cannot open the object index {path}")]
    Index { path: PathBuf, source: Fault },
    #[error(transparent)]
    Database(#[from] database::Error),
    #[error(
        "the object index {path} {what}, but {blobs} contains {count} blobs ({bytes} bytes) of \
         objects. Nothing was changed. Restore a backup of the index, or run `ims-job-agent \
         standalone --data=DIR --rebuild-index`, which rebuilds it from the blobs"
    )]
    Headless { path: PathBuf, what: &'static str, blobs: PathBuf, count: usize, bytes: u64 },
    #[error(
        "the object index {path} is readable and lists {blobs} blobs, so it is not rebuilt. To \
         rebuild it anyway, move it away first"
    )]
    Readable { path: PathBuf, blobs: usize },
}

/// A store that was opened.
pub struct Opened {
    pub service: S3Service,
    pub probe: Probe,
}

/// Asks whether the store can be written.
#[derive(Debug, Clone)]
pub struct Probe(Service);

impl Probe {
    /// Blocking.
    pub fn write(&self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.0.blobs.probe()?;
        Ok(self.0.index.run(Index::probe)?)
    }
}

/// Where things lie in the directory of the store.
struct Places {
    blobs: PathBuf,
    index: PathBuf,
    /// Blobs that no object uses, for the operator to check.
    lost: PathBuf,
}

impl Places {
    fn of(dir: &Path) -> Self {
        Self {
            blobs: dir.join("blobs"),
            index: dir.join("index.redb"),
            lost: dir.join("lost+found"),
        }
    }

    fn headless(&self, what: &'static str, survey: &Survey) -> Error {
        let (path, blobs) = (self.index.clone(), self.blobs.clone());
        Error::Headless { path, what, blobs, count: survey.blobs.len(), bytes: survey.bytes() }
    }
}

/// Opens the store in `dir`, removes what a crash left, and makes the buckets. Blocking.
pub fn open(dir: &Path, keys: &Keys, grants: Grants) -> Result<Opened, Error> {
    let directory = |source| Error::Directory { path: dir.into(), source };
    let places = Places::of(dir);
    let blobs = Blobs::open(places.blobs.clone()).map_err(directory)?;
    let survey = blobs.survey().map_err(directory)?;
    if !survey.blobs.is_empty() {
        // A new index would know none of them.
        match places.index.metadata() {
            Ok(found) if found.len() == 0 => return Err(places.headless("is empty", &survey)),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(places.headless("is missing", &survey));
            }
            Err(error) => return Err(directory(error)),
        }
    }
    let (file, first) = (places.index.clone(), AtomicBool::new(true));
    let index = Reopened::open(&places.index, index::TABLES.advice, move || {
        Index::open(&file, first.swap(false, Ordering::Relaxed))
    })?;
    let failed = |source| Error::Index { path: places.index.clone(), source };
    let used = index.run(Index::used).map_err(failed)?;
    if used.is_empty() && survey.blobs.len() > FEW {
        return Err(places.headless("lists none of these objects", &survey));
    }
    survey.remove_drafts().map_err(directory)?;
    compare(&places, &blobs, &survey, &used).map_err(directory)?;
    for bucket in BUCKETS {
        match index.run(|index| index.create_bucket(bucket)) {
            Ok(()) | Err(Fault::BucketExists(_)) => {}
            Err(fault) => return Err(failed(fault)),
        }
    }
    match index.run(|index| {
        index.note_all(|blob| blobs.is_noted(blob), |blob, at, object| blobs.note(blob, at, object))
    }) {
        Ok(0) => {}
        Ok(objects) => tracing::info!(
            objects,
            "added notes to the blobs of objects of an older \
            version"
        ),
        // The next start tries again.
        Err(error) => {
            tracing::warn!(error = %chain(&error), "cannot add notes to the blobs of objects of \
                an older version")
        }
    }
    let service = Service { index: Arc::new(index), blobs };
    let probe = Probe(service.clone());
    let mut builder = S3ServiceBuilder::new(service);
    let access = Access::new(keys.clone(), grants);
    builder.set_auth(access.clone());
    builder.set_access(access);
    Ok(Opened { service: builder.build(), probe })
}

/// Reports blobs that are missing, and puts aside those that no object uses: a crash leaves some, and so
/// does an index from a backup, which is older than they are.
fn compare(
    places: &Places,
    blobs: &Blobs,
    survey: &Survey,
    used: &HashSet<Uuid>,
) -> std::io::Result<()> {
    let missing = used.iter().filter(|blob| !survey.blobs.contains_key(blob)).count();
    if missing > 0 {
        tracing::error!(
            blobs = missing,
            directory = %places.blobs.display(),
            "blobs of objects are missing, so these objects cannot be read"
        );
    }
    let orphans: Vec<Uuid> =
        survey.blobs.keys().filter(|blob| !used.contains(blob)).copied().collect();
    if !orphans.is_empty() {
        let bytes: u64 = orphans.iter().filter_map(|blob| survey.blobs.get(blob)).sum();
        blobs.put_aside(&orphans, &places.lost)?;
        tracing::warn!(
            blobs = orphans.len(),
            bytes,
            directory = %places.lost.display(),
            "moved blobs that no object uses to this directory; delete them unless the index is \
             older than they are"
        );
    }
    Ok(())
}

/// The store as what answers requests.
pub fn router(service: S3Service) -> Router {
    Router::new().fallback(answer).with_state(service)
}

async fn answer(State(service): State<S3Service>, request: Request) -> Response {
    match service.call(request.map(Body::http_body_unsync)).await {
        Ok(response) => response.into_response(),
        // A request that s3s cannot even refuse; it has logged why.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
