//! Writes the body of a request to a sealed blob: hashed while it is written, checked before it is
//! used.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt;
use md5::{Digest, Md5};
use s3s::checksum::ChecksumHasher;
use s3s::dto::{Checksum, ChecksumAlgorithm, StreamingBlob};
use s3s::{S3Error, S3ErrorCode, S3Result, TrailingHeaders, s3_error};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::blobs::{Blobs, Draft};
use super::model::Segment;
use super::service::{disk, internal};

/// A client that sends nothing for this long counts as disconnected.
const SILENCE: Duration = Duration::from_secs(300);
/// How long a body is still read of which nothing can be kept.
const DRAIN: Duration = Duration::from_secs(60);
/// Chunks between the network and the disk.
const QUEUE: usize = 16;

/// Digests the client sent with the body; each one given must match.
#[derive(Debug, Default)]
pub struct Expected {
    /// `Content-MD5`, base64.
    pub md5: Option<String>,
    /// Algorithm announced for a checksum that comes as a trailer.
    pub algorithm: Option<ChecksumAlgorithm>,
    pub crc32: Option<String>,
    pub crc32c: Option<String>,
    pub crc64nvme: Option<String>,
    pub sha1: Option<String>,
    pub sha256: Option<String>,
}

/// A body that arrived completely and unchanged; removed unless it is sealed.
#[derive(Debug)]
pub struct Received {
    pub draft: Draft,
    pub size: u64,
    /// Hex.
    pub md5: String,
}

impl Received {
    /// The whole blob.
    pub fn segments(&self) -> Vec<Segment> {
        vec![Segment { blob: self.draft.blob, offset: 0, len: self.size }]
    }
}

/// Reads `body` to its end, unless it breaks off; what arrived must match every digest.
pub async fn receive(
    blobs: &Blobs,
    body: Option<StreamingBlob>,
    mut expected: Expected,
    trailers: Option<TrailingHeaders>,
) -> S3Result<Received> {
    let mut body = body.ok_or_else(|| s3_error!(IncompleteBody))?;
    let hasher = expected.hasher();
    let (sender, receiver) = mpsc::channel(QUEUE);
    let writer = tokio::task::spawn_blocking({
        let blobs = blobs.clone();
        move || write(&blobs, receiver, hasher)
    });
    let sent = pump(&mut body, sender).await;
    // Whatever the outcome, the writer ends: its queue is closed. A draft not sealed removes itself.
    let written = writer.await.map_err(internal)?;
    sent?;
    let Written { draft, size, md5, sums } = written.map_err(disk)?;
    expected.add_trailers(trailers)?;
    expected.check(md5, sums)?;
    Ok(Received { draft, size, md5: hex::encode(md5) })
}

/// Passes the body on, chunk by chunk.
async fn pump(body: &mut StreamingBlob, sender: mpsc::Sender<Bytes>) -> S3Result<()> {
    loop {
        let chunk = tokio::time::timeout(SILENCE, body.next())
            .await
            .map_err(|_| s3_error!(RequestTimeout, "the body stopped before its end"))?;
        match chunk {
            Some(Ok(chunk)) => {
                if sender.send(chunk).await.is_err() {
                    drain(body).await;
                    return Ok(()); // the writer failed and says why
                }
            }
            Some(Err(error)) => {
                let message = format!("the connection broke before the end of the body: {error}");
                return Err(S3Error::with_message(S3ErrorCode::IncompleteBody, message));
            }
            None => return Ok(()),
        }
    }
}

/// Reads the rest and discards it. A client that is still sending when the connection closes would
/// only see that, and not the response with the error.
async fn drain(body: &mut StreamingBlob) {
    let rest = async { while let Some(Ok(_)) = body.next().await {} };
    let _ = tokio::time::timeout(DRAIN, rest).await;
}

/// A body on disk, and what was computed of it.
struct Written {
    draft: Draft,
    size: u64,
    md5: [u8; 16],
    sums: Checksum,
}

/// The blocking half: writes and hashes until the queue is closed.
fn write(
    blobs: &Blobs,
    mut chunks: mpsc::Receiver<Bytes>,
    mut sums: ChecksumHasher,
) -> std::io::Result<Written> {
    let mut draft = blobs.create(Uuid::new_v4())?;
    let mut md5 = Md5::new();
    let mut size = 0;
    while let Some(chunk) = chunks.blocking_recv() {
        md5.update(&chunk);
        sums.update(&chunk);
        draft.file.write_all(&chunk)?;
        size += chunk.len() as u64;
    }
    Ok(Written { draft, size, md5: md5.finalize().into(), sums: sums.finalize() })
}

impl Expected {
    /// A hasher for what must be compared in the end.
    fn hasher(&self) -> ChecksumHasher {
        let mut hasher = ChecksumHasher::default();
        let named = self.algorithm.as_ref().map(|algorithm| algorithm.as_str());
        let wanted =
            |algorithm, value: &Option<String>| value.is_some() || named == Some(algorithm);
        if wanted(ChecksumAlgorithm::CRC32, &self.crc32) {
            hasher.crc32 = Some(Default::default());
        }
        if wanted(ChecksumAlgorithm::CRC32C, &self.crc32c) {
            hasher.crc32c = Some(Default::default());
        }
        if wanted(ChecksumAlgorithm::CRC64NVME, &self.crc64nvme) {
            hasher.crc64nvme = Some(Default::default());
        }
        if wanted(ChecksumAlgorithm::SHA1, &self.sha1) {
            hasher.sha1 = Some(Default::default());
        }
        if wanted(ChecksumAlgorithm::SHA256, &self.sha256) {
            hasher.sha256 = Some(Default::default());
        }
        hasher
    }

    fn add_trailers(&mut self, trailers: Option<TrailingHeaders>) -> S3Result<()> {
        let Some(trailers) = trailers.and_then(|trailers| trailers.take()) else { return Ok(()) };
        let fields = [
            ("x-amz-checksum-crc32", &mut self.crc32),
            ("x-amz-checksum-crc32c", &mut self.crc32c),
            ("x-amz-checksum-crc64nvme", &mut self.crc64nvme),
            ("x-amz-checksum-sha1", &mut self.sha1),
            ("x-amz-checksum-sha256", &mut self.sha256),
        ];
        for (name, field) in fields {
            if let Some(value) = trailers.get(name) {
                let value = value.to_str().map_err(|error| s3_error!(error, InvalidArgument))?;
                *field = Some(value.to_owned());
            }
        }
        Ok(())
    }

    fn check(&self, md5: [u8; 16], sums: Checksum) -> S3Result<()> {
        let pairs = [
            ("Content-MD5", &self.md5, Some(STANDARD.encode(md5))),
            ("CRC32", &self.crc32, sums.checksum_crc32),
            ("CRC32C", &self.crc32c, sums.checksum_crc32c),
            ("CRC64NVME", &self.crc64nvme, sums.checksum_crc64nvme),
            ("SHA1", &self.sha1, sums.checksum_sha1),
            ("SHA256", &self.sha256, sums.checksum_sha256),
        ];
        for (name, expected, found) in pairs {
            if let (Some(expected), Some(found)) = (expected, found)
                && *expected != found
            {
                return Err(bad_digest(name, expected, &found));
            }
        }
        Ok(())
    }
}

fn bad_digest(name: &str, expected: &str, found: &str) -> S3Error {
    s3_error!(BadDigest, "the {} sent is {}, that of the body is {}", name, expected, found)
}

/// The MD5 of stored bytes, in hex. Blocking.
pub fn md5_of(blobs: &Blobs, segments: &[Segment]) -> std::io::Result<String> {
    let mut md5 = Md5::new();
    let mut buffer = vec![0; 1 << 20];
    for segment in segments {
        let mut file = File::open(blobs.path(segment.blob))?;
        file.seek(SeekFrom::Start(segment.offset))?;
        let mut rest = file.take(segment.len);
        loop {
            let count = rest.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            md5.update(&buffer[..count]);
        }
        if rest.limit() > 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(hex::encode(md5.finalize()))
}
