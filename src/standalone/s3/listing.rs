//! The listing operations: pages of the index as S3 responses.

use s3s::dto::*;
use s3s::{S3Response, S3Result};

use super::keys::{self, Writer};
use super::list::{Entry, Page};
use super::objects::length;
use super::service::{Service, stamp};

/// S3's page size, and its limit.
const PAGE: i32 = 1000;

pub async fn objects(
    service: &Service,
    input: ListObjectsInput,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let writer = Writer::new(input.encoding_type.as_ref())?;
    let max = page_size(input.max_keys);
    let page =
        page(service, &input.bucket, &input.prefix, &input.delimiter, input.marker.clone(), max)
            .await?;
    let next = next(&page);
    let truncated = page.truncated;
    let (contents, common_prefixes) = split(page, writer)?;
    Ok(S3Response::new(ListObjectsOutput {
        name: Some(input.bucket),
        prefix: writer.write_some(input.prefix)?,
        marker: writer.write_some(input.marker)?,
        max_keys: Some(max),
        is_truncated: Some(truncated),
        contents: Some(contents),
        common_prefixes: Some(common_prefixes),
        delimiter: writer.write_some(input.delimiter)?,
        next_marker: writer.write_some(next)?,
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}

pub async fn objects_v2(
    service: &Service,
    input: ListObjectsV2Input,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let writer = Writer::new(input.encoding_type.as_ref())?;
    let max = page_size(input.max_keys);
    // A continuation token is where the last page ended.
    let after = match input.continuation_token.as_deref() {
        Some(token) => Some(keys::from_token(token)?),
        None => input.start_after.clone(),
    };
    let page = page(service, &input.bucket, &input.prefix, &input.delimiter, after, max).await?;
    let next = next(&page);
    let (truncated, count) = (page.truncated, page.entries.len());
    let (contents, common_prefixes) = split(page, writer)?;
    Ok(S3Response::new(ListObjectsV2Output {
        name: Some(input.bucket),
        prefix: writer.write_some(input.prefix)?,
        max_keys: Some(max),
        key_count: i32::try_from(count).ok(),
        continuation_token: input.continuation_token,
        is_truncated: Some(truncated),
        next_continuation_token: next.as_deref().map(keys::token),
        contents: Some(contents),
        common_prefixes: Some(common_prefixes),
        delimiter: writer.write_some(input.delimiter)?,
        encoding_type: input.encoding_type,
        start_after: writer.write_some(input.start_after)?,
        ..Default::default()
    }))
}

pub async fn parts(
    service: &Service,
    input: ListPartsInput,
) -> S3Result<S3Response<ListPartsOutput>> {
    let max = page_size(input.max_parts);
    let after = input.part_number_marker.unwrap_or(0);
    let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id.clone());
    let all = service.ask(move |index| index.parts((&bucket, &key), &id)).await?;
    let mut rest = all.into_iter().filter(|(number, _)| i64::from(*number) > i64::from(after));
    let mut parts = Vec::new();
    for (number, part) in rest.by_ref().take(usize::try_from(max).unwrap_or(0)) {
        parts.push(Part {
            part_number: i32::try_from(number).ok(),
            e_tag: Some(ETag::Strong(part.etag)),
            size: Some(length(part.size)?),
            last_modified: Some(stamp(part.modified)),
            ..Default::default()
        });
    }
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        key: Some(input.key),
        upload_id: Some(input.upload_id),
        max_parts: Some(max),
        is_truncated: Some(rest.next().is_some()),
        next_part_number_marker: parts.last().and_then(|part| part.part_number),
        parts: Some(parts),
        ..Default::default()
    }))
}

pub async fn uploads(
    service: &Service,
    input: ListMultipartUploadsInput,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let writer = Writer::new(input.encoding_type.as_ref())?;
    let bucket = input.bucket.clone();
    let all = service.ask(move |index| index.uploads(&bucket)).await?;
    let prefix = input.prefix.clone().unwrap_or_default();
    let mut uploads = Vec::new();
    for (id, upload) in all.into_iter().filter(|(_, upload)| upload.key.starts_with(&prefix)) {
        uploads.push(MultipartUpload {
            upload_id: Some(id),
            key: Some(writer.write(upload.key)?),
            initiated: Some(stamp(upload.started)),
            ..Default::default()
        });
    }
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        prefix: writer.write_some(input.prefix)?,
        encoding_type: input.encoding_type,
        is_truncated: Some(false),
        uploads: Some(uploads),
        ..Default::default()
    }))
}

fn page_size(asked: Option<i32>) -> i32 {
    asked.unwrap_or(PAGE).clamp(0, PAGE)
}

async fn page(
    service: &Service,
    bucket: &str,
    prefix: &Option<String>,
    delimiter: &Option<String>,
    after: Option<String>,
    max: i32,
) -> S3Result<Page> {
    let (bucket, prefix) = (bucket.to_owned(), prefix.clone().unwrap_or_default());
    let delimiter = delimiter.clone();
    let max = usize::try_from(max).unwrap_or(0);
    service
        .ask(move |index| {
            if max == 0 {
                index.check_bucket(&bucket)?;
                return Ok(Page::default());
            }
            index.list(&bucket, &prefix, delimiter.as_deref(), after.as_deref(), max)
        })
        .await
}

fn next(page: &Page) -> Option<String> {
    page.entries.last().filter(|_| page.truncated).map(|entry| entry.name().to_owned())
}

fn split(page: Page, writer: Writer) -> S3Result<(Vec<Object>, Vec<CommonPrefix>)> {
    let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
    for entry in page.entries {
        match entry {
            Entry::Prefix(prefix) => {
                prefixes.push(CommonPrefix { prefix: Some(writer.write(prefix)?) });
            }
            Entry::Object(key, object) => objects.push(Object {
                key: Some(writer.write(key)?),
                size: Some(length(object.size)?),
                e_tag: Some(ETag::Strong(object.etag)),
                last_modified: Some(stamp(object.modified)),
                storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
                ..Default::default()
            }),
        }
    }
    Ok((objects, prefixes))
}
