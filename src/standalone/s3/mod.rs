//! The embedded object store: an S3 endpoint over a directory. Started by `standalone`.
//!
//! s3s does the protocol. Its companion s3s-fs is not used: it replaces an object before it has
//! checked the body's digests, ignores If-Match on reads and Content-MD5 on parts, cannot hold the
//! keys `a` and `a/b` at once, and does not survive a power cut between data and metadata.
//! Here bytes are immutable `blobs` and the `index` changes in transactions: an object is there
//! whole, or not at all.

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
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::{SecretKey, SimpleAuth};
use s3s::service::{S3Service, S3ServiceBuilder};
use secrecy::ExposeSecret;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Keys;
use blobs::Blobs;
pub use index::Fault;
use index::Index;
use service::Service;

/// The buckets IMS uses: recipes and images.
pub const BUCKETS: [&str; 2] = ["ims", "boot-images"];

/// How long requests in progress may go on after the end was asked for.
const GRACE: Duration = Duration::from_secs(10);

/// Why the embedded store does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use {path} for objects")]
    Directory { path: std::path::PathBuf, source: std::io::Error },
    #[error("cannot open the object index {path}")]
    Index { path: std::path::PathBuf, source: Fault },
}

/// Opens the store in `dir`, removes what a crash left, and makes the buckets. Blocking.
pub fn open(dir: &Path, keys: &Keys) -> Result<S3Service, Error> {
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
    let secret = SecretKey::from(keys.secret.expose_secret());
    builder.set_auth(SimpleAuth::from_single(keys.access.clone(), secret));
    Ok(builder.build())
}

/// Serves until `shutdown`; requests in progress get a moment to end.
pub async fn serve(listener: TcpListener, service: S3Service, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            _ = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, service.clone(), shutdown.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept an S3 connection");
                // Out of file descriptors, most likely: asking again at once would only spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    connections.close();
    if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
        tracing::warn!("S3 requests were cut off by the end of standalone");
    }
}

async fn connection(stream: TcpStream, service: S3Service, shutdown: CancellationToken) {
    let server = Builder::new(TokioExecutor::new());
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an S3 connection ended");
    }
}
