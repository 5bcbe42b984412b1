//! Get, head and put of one object.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{Stream, StreamExt, TryStreamExt, stream};
use s3s::dto::*;
use s3s::{S3Response, S3Result, TrailingHeaders, s3_error};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::blobs::{Blobs, Pin};
use super::conditions::{self, Conditions};
use super::keys;
use super::model::{Attributes, Object, Segment, now, slice};
use super::note::Entry;
use super::receive::{Expected, receive};
use super::service::{Service, internal, stamp};

/// Bytes read from disk at a time for a download.
const READ: usize = 256 * 1024;

pub async fn get(
    service: &Service,
    input: GetObjectInput,
) -> S3Result<S3Response<GetObjectOutput>> {
    let GetObjectInput { bucket, key, range, .. } = input;
    let (object, pin) = pinned(service, bucket, key).await?;
    let conditions = Conditions {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        modified_since: input.if_modified_since,
        unmodified_since: input.if_unmodified_since,
    };
    conditions::read(&conditions, &object)?;
    let bytes = match range {
        Some(range) => Some(range.check(object.size)?),
        None => None,
    };
    let (start, end) = bytes.as_ref().map_or((0, object.size), |b| (b.start, b.end));
    let segments = slice(&object.segments, start, end);
    let attributes = object.attributes;
    let output = GetObjectOutput {
        body: Some(StreamingBlob::wrap(read(service.blobs.clone(), segments, pin))),
        content_length: Some(length(end - start)?),
        content_range: bytes
            .map(|_| format!("bytes {start}-{}/{}", end.saturating_sub(1), object.size)),
        accept_ranges: Some("bytes".to_owned()),
        e_tag: Some(ETag::Strong(object.etag)),
        last_modified: Some(stamp(object.modified)),
        metadata: metadata(attributes.metadata),
        content_type: attributes.content_type,
        content_encoding: attributes.content_encoding,
        content_disposition: attributes.content_disposition,
        content_language: attributes.content_language,
        cache_control: attributes.cache_control,
        ..Default::default()
    };
    Ok(S3Response::new(output))
}

pub async fn head(
    service: &Service,
    input: HeadObjectInput,
) -> S3Result<S3Response<HeadObjectOutput>> {
    let HeadObjectInput { bucket, key, .. } = input;
    let object = service.ask(move |index| index.object(&bucket, &key)).await?;
    let conditions = Conditions {
        if_match: input.if_match,
        if_none_match: input.if_none_match,
        modified_since: input.if_modified_since,
        unmodified_since: input.if_unmodified_since,
    };
    conditions::read(&conditions, &object)?;
    let attributes = object.attributes;
    let output = HeadObjectOutput {
        content_length: Some(length(object.size)?),
        accept_ranges: Some("bytes".to_owned()),
        e_tag: Some(ETag::Strong(object.etag)),
        last_modified: Some(stamp(object.modified)),
        metadata: metadata(attributes.metadata),
        content_type: attributes.content_type,
        content_encoding: attributes.content_encoding,
        content_disposition: attributes.content_disposition,
        content_language: attributes.content_language,
        cache_control: attributes.cache_control,
        ..Default::default()
    };
    Ok(S3Response::new(output))
}

pub async fn put(
    service: &Service,
    input: PutObjectInput,
    trailers: Option<TrailingHeaders>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let PutObjectInput { bucket, key, body, if_match, if_none_match, .. } = input;
    keys::check(&key)?;
    let expected = Expected {
        md5: input.content_md5,
        algorithm: input.checksum_algorithm,
        crc32: input.checksum_crc32,
        crc32c: input.checksum_crc32c,
        crc64nvme: input.checksum_crc64nvme,
        sha1: input.checksum_sha1,
        sha256: input.checksum_sha256,
    };
    let attributes = Attributes {
        metadata: input.metadata.unwrap_or_default().into_iter().collect(),
        content_type: input.content_type,
        content_encoding: input.content_encoding,
        content_disposition: input.content_disposition,
        content_language: input.content_language,
        cache_control: input.cache_control,
    };
    {
        let bucket = bucket.clone();
        service.ask(move |index| index.check_bucket(&bucket)).await?;
    }
    let received = receive(&service.blobs, body, expected, trailers).await?;
    let object = Object {
        segments: received.segments(),
        size: received.size,
        etag: received.md5,
        modified: now(),
        attributes,
    };
    let etag = object.etag.clone();
    let blob = received.draft.blob;
    let entry = Entry::Object { bucket: bucket.clone(), key: key.clone(), object: object.clone() };
    service.seal(received.draft, entry).await?;
    service
        .change(Some(blob), move |index| {
            let freed = index.put((&bucket, &key), &object, |old| {
                conditions::write(if_match.as_ref(), if_none_match.as_ref(), old)
            })?;
            Ok(((), freed))
        })
        .await?;
    Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() }))
}

/// An object whose bytes stay on disk while the pin lives.
pub async fn pinned(service: &Service, bucket: String, key: String) -> S3Result<(Object, Pin)> {
    let blobs = service.blobs.clone();
    service
        .ask(move |index| {
            blobs.pin(|| {
                let object = index.object(&bucket, &key)?;
                let names = object.blobs();
                Ok((object, names))
            })
        })
        .await
}

/// The bytes of `segments`, opened one after the other.
fn read(
    blobs: Blobs,
    segments: Vec<Segment>,
    pin: Pin,
) -> impl Stream<Item = std::io::Result<bytes::Bytes>> + Send + Sync + 'static {
    let pin = Arc::new(pin);
    stream::iter(segments)
        .then(move |segment| {
            let (path, pin) = (blobs.path(segment.blob), Arc::clone(&pin));
            async move {
                let mut file = tokio::fs::File::open(path).await?;
                file.seek(std::io::SeekFrom::Start(segment.offset)).await?;
                let chunks = ReaderStream::with_capacity(file.take(segment.len), READ);
                Ok::<_, std::io::Error>(chunks.inspect(move |_| {
                    let _held = &pin;
                }))
            }
        })
        .try_flatten()
}

/// S3 headers carry lengths as signed numbers.
pub fn length(size: u64) -> S3Result<i64> {
    i64::try_from(size).map_err(internal)
}

fn metadata(map: BTreeMap<String, String>) -> Option<Metadata> {
    (!map.is_empty()).then(|| map.into_iter().collect())
}

/// The bucket and key of a copy's source.
pub fn source(source: &CopySource) -> S3Result<(String, String)> {
    match source {
        CopySource::Bucket { bucket, key, version_id: None } => {
            Ok((bucket.to_string(), key.to_string()))
        }
        _ => Err(s3_error!(NotImplemented, "only bucket/key is a source here")),
    }
}
