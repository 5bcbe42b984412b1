//! Multipart uploads: start, part, complete.

use s3s::dto::*;
use s3s::{S3Response, S3Result, TrailingHeaders, s3_error};
use uuid::Uuid;

use super::conditions;
use super::keys;
use super::model::{Attributes, Part, Upload, now};
use super::note::Entry;
use super::receive::{Expected, receive};
use super::service::Service;

pub async fn create(
    service: &Service,
    input: CreateMultipartUploadInput,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    keys::check(&input.key)?;
    let upload = Upload {
        bucket: input.bucket.clone(),
        key: input.key.clone(),
        attributes: Attributes {
            metadata: input.metadata.unwrap_or_default().into_iter().collect(),
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            content_disposition: input.content_disposition,
            content_language: input.content_language,
            cache_control: input.cache_control,
        },
        started: now(),
    };
    let id = service.ask(move |index| index.start_upload(&upload)).await?;
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(id),
        ..Default::default()
    }))
}

pub async fn part(
    service: &Service,
    input: UploadPartInput,
    trailers: Option<TrailingHeaders>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let number = number(input.part_number)?;
    let (bucket, key, id) = (input.bucket, input.key, input.upload_id);
    let upload = {
        let (bucket, key, id) = (bucket.clone(), key.clone(), id.clone());
        service.ask(move |index| index.upload((&bucket, &key), &id)).await?
    };
    let expected = Expected {
        md5: input.content_md5,
        algorithm: input.checksum_algorithm,
        crc32: input.checksum_crc32,
        crc32c: input.checksum_crc32c,
        crc64nvme: input.checksum_crc64nvme,
        sha1: input.checksum_sha1,
        sha256: input.checksum_sha256,
    };
    let received = receive(&service.blobs, input.body, expected, trailers).await?;
    let part = Part {
        segments: received.segments(),
        size: received.size,
        etag: received.md5,
        modified: now(),
    };
    let etag = part.etag.clone();
    let blob = received.draft.blob;
    let entry = Entry::Part { upload_id: id.clone(), upload, number, part: part.clone() };
    service.seal(received.draft, entry).await?;
    service
        .change(Some(blob), move |index| {
            Ok(((), index.put_part(((&bucket, &key), &id), number, &part, None)?))
        })
        .await?;
    Ok(S3Response::new(UploadPartOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() }))
}

pub async fn complete(
    service: &Service,
    input: CompleteMultipartUploadInput,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let wanted = input
        .multipart_upload
        .and_then(|upload| upload.parts)
        .filter(|parts| !parts.is_empty())
        .ok_or_else(|| s3_error!(MalformedXML, "no parts are listed"))?
        .into_iter()
        .map(|part| match (part.part_number, part.e_tag) {
            (Some(part_number), Some(etag)) => Ok((number(part_number)?, etag.into_value())),
            _ => Err(s3_error!(MalformedXML, "a part without number or etag")),
        })
        .collect::<S3Result<Vec<_>>>()?;
    let (bucket, key, id) = (input.bucket, input.key, input.upload_id);
    let (if_match, if_none_match) = (input.if_match, input.if_none_match);
    let output = CompleteMultipartUploadOutput {
        location: Some(format!("/{bucket}/{key}")),
        bucket: Some(bucket.clone()),
        key: Some(key.clone()),
        ..Default::default()
    };
    let (note, blobs) = (Uuid::new_v4(), service.blobs.clone());
    let object = service
        .change(Some(note), move |index| {
            index.complete(
                ((&bucket, &key), &id),
                &wanted,
                |old| conditions::write(if_match.as_ref(), if_none_match.as_ref(), old),
                |object| blobs.note(note, (&bucket, &key), object),
            )
        })
        .await?;
    Ok(S3Response::new(CompleteMultipartUploadOutput {
        e_tag: Some(ETag::Strong(object.etag)),
        ..output
    }))
}

/// Part numbers go from 1 to 10,000.
pub fn number(part: PartNumber) -> S3Result<u32> {
    u32::try_from(part)
        .ok()
        .filter(|part| (1..=10_000).contains(part))
        .ok_or_else(|| s3_error!(InvalidArgument, "part numbers go from 1 to 10000"))
}
