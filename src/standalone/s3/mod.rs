//! The embedded object store: an S3 endpoint over a directory. Started by `standalone`.
//!
//! s3s does the protocol. Its companion s3s-fs is not used: it replaces an object before it has
//! checked the body's digests, ignores If-Match on reads and Content-MD5 on parts, cannot hold the
//! keys `a` and `a/b` at once, and does not survive a power cut between data and metadata.
//! Here bytes are immutable `blobs` and the `index` changes in transactions: an object is there
//! whole, or not at all.

mod access;
mod blobs;
mod conditions;
mod copy;
mod index;
mod list;
mod listing;
mod model;
mod multipart;
mod objects;
mod receive;
mod service;
mod uploads;

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use s3s::Body;
use s3s::service::{S3Service, S3ServiceBuilder};

use super::Keys;
use super::grants::Grants;
use access::Access;
use blobs::Blobs;
pub use index::Fault;
use index::Index;
use service::Service;

/// The buckets IMS uses: recipes and images.
pub const BUCKETS: [&str; 2] = ["ims", "boot-images"];

/// Why the embedded store does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use {path} for objects")]
    Directory { path: std::path::PathBuf, source: std::io::Error },
    #[error("cannot open the object index {path}")]
    Index { path: std::path::PathBuf, source: Fault },
}

/// Opens the store in `dir`, removes what a crash left, and makes the buckets. Blocking.
pub fn open(dir: &Path, keys: &Keys, grants: Grants) -> Result<S3Service, Error> {
    let directory = |source| Error::Directory { path: dir.into(), source };
    let blobs = Blobs::open(dir.join("blobs")).map_err(directory)?;
    let path = dir.join("index.redb");
    let failed = |source| Error::Index { path: path.clone(), source };
    let index = Index::open(&path).map_err(failed)?;
    let swept = blobs.sweep(|blob| index.uses(blob).unwrap_or(true)).map_err(directory)?;
    if swept > 0 {
        tracing::warn!(blobs = swept, "removed uploads that had not been finished");
    }
    for bucket in BUCKETS {
        match index.create_bucket(bucket) {
            Ok(()) | Err(Fault::BucketExists(_)) => {}
            Err(fault) => return Err(failed(fault)),
        }
    }
    let mut builder = S3ServiceBuilder::new(Service { index: Arc::new(index), blobs });
    let access = Access::new(keys.clone(), grants);
    builder.set_auth(access.clone());
    builder.set_access(access);
    Ok(builder.build())
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
