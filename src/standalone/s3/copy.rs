//! Copies inside the store: no bytes move, blobs are shared.

use s3s::dto::*;
use s3s::{S3Response, S3Result, s3_error};
use uuid::Uuid;

use super::conditions::{self, Conditions};
use super::keys;
use super::model::{Attributes, Object, Part, now, slice};
use super::multipart::number;
use super::note::{Entry, noted};
use super::objects::{pinned, source};
use super::receive::md5_of;
use super::service::{Service, disk, internal, stamp};

pub async fn object(
    service: &Service,
    input: CopyObjectInput,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let from = source(&input.copy_source)?;
    keys::check(&input.key)?;
    let to = (input.bucket, input.key);
    let replaced = input
        .metadata_directive
        .as_ref()
        .is_some_and(|directive| directive.as_str() == MetadataDirective::REPLACE);
    if from == to && !replaced {
        return Err(s3_error!(
            InvalidRequest,
            "a copy onto itself must replace the metadata (x-amz-metadata-directive: REPLACE)"
        ));
    }
    let attributes = replaced.then(|| Attributes {
        metadata: input.metadata.unwrap_or_default().into_iter().collect(),
        content_type: input.content_type,
        content_encoding: input.content_encoding,
        content_disposition: input.content_disposition,
        content_language: input.content_language,
        cache_control: input.cache_control,
    });
    let conditions = Conditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        modified_since: input.copy_source_if_modified_since,
        unmodified_since: input.copy_source_if_unmodified_since,
    };
    let (note, blobs) = (Uuid::new_v4(), service.blobs.clone());
    let copied = service
        .change(Some(note), move |index| {
            let edit = |object: &mut Object| {
                let allowed = conditions::read(&conditions, object).is_ok();
                object.modified = now();
                if let Some(attributes) = attributes {
                    object.attributes = attributes;
                }
                allowed
            };
            let to = (to.0.as_str(), to.1.as_str());
            index.copy((&from.0, &from.1), to, edit, |object| blobs.note(note, to, object))
        })
        .await?;
    let result = CopyObjectResult {
        e_tag: Some(ETag::Strong(copied.etag)),
        last_modified: Some(stamp(copied.modified)),
        ..Default::default()
    };
    Ok(S3Response::new(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() }))
}

pub async fn part(
    service: &Service,
    input: UploadPartCopyInput,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let number = number(input.part_number)?;
    let from = source(&input.copy_source)?;
    let (object, pin) = pinned(service, from.0.clone(), from.1.clone()).await?;
    let conditions = Conditions {
        if_match: input.copy_source_if_match,
        if_none_match: input.copy_source_if_none_match,
        modified_since: input.copy_source_if_modified_since,
        unmodified_since: input.copy_source_if_unmodified_since,
    };
    conditions::read(&conditions, &object).map_err(|_| s3_error!(PreconditionFailed))?;
    let (start, end) = match &input.copy_source_range {
        Some(range) => bounds(range, object.size)?,
        None => (0, object.size),
    };
    let segments = slice(&object.segments, start, end);
    let (segments, etag) = {
        let blobs = service.blobs.clone();
        let hash = tokio::task::spawn_blocking(move || {
            let etag = md5_of(&blobs, &segments)?;
            Ok::<_, std::io::Error>((segments, etag))
        });
        hash.await.map_err(internal)?.map_err(disk)?
    };
    let (bucket, key, id) = (input.bucket, input.key, input.upload_id);
    let upload = {
        let (bucket, key, id) = (bucket.clone(), key.clone(), id.clone());
        service.ask(move |index| index.upload((&bucket, &key), &id)).await?
    };
    let note = Uuid::new_v4();
    let part = Part { segments: noted(segments, note), size: end - start, etag, modified: now() };
    let entry = Entry::Part { upload_id: id.clone(), upload, number, part: part.clone() };
    let draft = service.blobs.create(note).map_err(disk)?;
    service.seal(draft, entry).await?;
    let result = CopyPartResult {
        e_tag: Some(ETag::Strong(part.etag.clone())),
        last_modified: Some(stamp(part.modified)),
        ..Default::default()
    };
    service
        .change(Some(note), move |index| {
            let source = Some(((from.0.as_str(), from.1.as_str()), &object));
            let freed = index.put_part(((&bucket, &key), &id), number, &part, source)?;
            Ok(((), freed))
        })
        .await?;
    drop(pin);
    Ok(S3Response::new(UploadPartCopyOutput {
        copy_part_result: Some(result),
        ..Default::default()
    }))
}

/// `bytes=first-last`: unlike in a GET, all of it must exist.
fn bounds(range: &str, size: u64) -> S3Result<(u64, u64)> {
    let parsed = range
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
        .and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)));
    match parsed {
        Some((first, last)) if first <= last && last < size => Ok((first, last + 1)),
        Some(_) => Err(s3_error!(InvalidRange)),
        None => Err(s3_error!(InvalidArgument, "the range must be bytes=first-last")),
    }
}
