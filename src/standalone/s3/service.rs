//! The S3 operations that IMS clients use, over `index` and `blobs`: an implementation of s3s's
//! trait; s3s implements the protocol (routing, signatures, XML, streaming checksums).
//!
//! Other operations return `NotImplemented`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use uuid::Uuid;

use super::blobs::{Blobs, Draft};
use super::index::{self, Fault, Freed, Index};
use super::note::Entry;
use super::{copy, listing, multipart, objects};
use crate::standalone::database::{self, Reopened};
use crate::telemetry::chain;

/// The embedded object store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    pub(super) index: Arc<Reopened<Index>>,
    pub(super) blobs: Blobs,
}

impl Service {
    /// Runs a blocking question to the index.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Index) -> index::Result<T> + Send + 'static,
    ) -> S3Result<T> {
        let index = Arc::clone(&self.index);
        let answer = tokio::task::spawn_blocking(move || index.run(question)).await;
        answer.map_err(internal)?.map_err(S3Error::from)
    }

    /// Turns a received body into a blob.
    pub(super) async fn seal(&self, draft: Draft, entry: Entry) -> S3Result<()> {
        let blobs = self.blobs.clone();
        let sealed = tokio::task::spawn_blocking(move || blobs.seal(draft, entry));
        sealed.await.map_err(internal)?.map_err(disk)?;
        SAID_FULL.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Runs a blocking change of the index and removes the blobs it freed, or, if it fails, the
    /// `new` blob it would have put there.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        new: Option<Uuid>,
        change: impl FnOnce(&Index) -> index::Result<(T, Freed)> + Send + 'static,
    ) -> S3Result<T> {
        let (index, blobs) = (Arc::clone(&self.index), self.blobs.clone());
        let done = tokio::task::spawn_blocking(move || match index.run(change) {
            Ok((value, freed)) => {
                freed.notes.iter().for_each(|blob| blobs.strip(*blob));
                blobs.remove(freed.blobs);
                Ok(value)
            }
            Err(fault) => {
                // A change whose commit failed may still be on disk. If this is not known, the blob
                // stays.
                let unused = |blob: &Uuid| index.run(|index| index.uses(*blob)).is_ok_and(|it| !it);
                blobs.remove(new.into_iter().filter(unused).collect());
                Err(fault)
            }
        });
        done.await.map_err(internal)?.map_err(S3Error::from)
    }
}

/// An internal error of the store; the log of s3s gets all of it, the client does not.
pub fn internal(error: impl std::error::Error + Send + Sync + 'static) -> S3Error {
    tracing::error!(error = %crate::telemetry::chain(&error), "the object store failed");
    S3Error::with_source(S3ErrorCode::InternalError, Box::new(error))
}

/// Whether "no space" was logged, and nothing could be stored since.
static SAID_FULL: AtomicBool = AtomicBool::new(false);

/// An error of the disk. A full disk has its own response, so that clients do not retry (as they do
/// after 500 and 503), and is logged once.
pub fn disk(error: io::Error) -> S3Error {
    if !database::is_full(&error) {
        return internal(error);
    }
    if !SAID_FULL.swap(true, Ordering::Relaxed) {
        tracing::error!(%error, "the object store has no space left; uploads are refused until \
            there is space again");
    }
    no_space(&error)
}

fn no_space(error: &(dyn std::error::Error + 'static)) -> S3Error {
    let message = format!("no space left on device for the object store: {}", chain(error));
    let mut answer =
        S3Error::with_message(S3ErrorCode::Custom("InsufficientStorage".into()), message);
    answer.set_status_code(http::StatusCode::INSUFFICIENT_STORAGE);
    answer
}

impl From<Fault> for S3Error {
    fn from(fault: Fault) -> Self {
        let fault = match fault {
            Fault::Disk(error) => return disk(error),
            other => other,
        };
        let code = match &fault {
            Fault::NoSuchBucket(_) => S3ErrorCode::NoSuchBucket,
            Fault::BucketExists(_) => S3ErrorCode::BucketAlreadyOwnedByYou,
            Fault::BucketNotEmpty(_) => S3ErrorCode::BucketNotEmpty,
            Fault::NoSuchKey(_) => S3ErrorCode::NoSuchKey,
            Fault::NoSuchUpload(_) => S3ErrorCode::NoSuchUpload,
            Fault::InvalidPart(_) => S3ErrorCode::InvalidPart,
            Fault::PartOrder => S3ErrorCode::InvalidPartOrder,
            Fault::PartTooSmall(_) => S3ErrorCode::EntityTooSmall,
            Fault::Precondition => S3ErrorCode::PreconditionFailed,
            Fault::Database(error) if error.is_full() => return no_space(error),
            Fault::Database(error) if error.is_passing() => S3ErrorCode::ServiceUnavailable,
            Fault::Database(_) | Fault::Value(_) | Fault::Disk(_) => return internal(fault),
        };
        S3Error::with_message(code, fault.to_string())
    }
}

/// A client's time stamp of a stored time.
pub(super) fn stamp(micros: u64) -> Timestamp {
    super::model::time(micros).into()
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn create_bucket(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        self.ask(move |index| index.create_bucket(&req.input.bucket)).await?;
        Ok(S3Response::new(CreateBucketOutput::default()))
    }

    async fn delete_bucket(
        &self,
        req: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        self.ask(move |index| index.delete_bucket(&req.input.bucket)).await?;
        Ok(S3Response::new(DeleteBucketOutput::default()))
    }

    async fn head_bucket(
        &self,
        req: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.ask(move |index| index.check_bucket(&req.input.bucket)).await?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.ask(move |index| index.check_bucket(&req.input.bucket)).await?;
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn list_buckets(
        &self,
        _: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let buckets = self.ask(Index::buckets).await?;
        let buckets = buckets.into_iter().map(|(name, made)| Bucket {
            name: Some(name),
            creation_date: Some(stamp(made)),
            ..Default::default()
        });
        let output = ListBucketsOutput { buckets: Some(buckets.collect()), ..Default::default() };
        Ok(S3Response::new(output))
    }

    async fn get_object(
        &self,
        req: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        objects::get(self, req.input).await
    }

    async fn head_object(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        objects::head(self, req.input).await
    }

    async fn put_object(
        &self,
        req: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        objects::put(self, req.input, req.trailing_headers).await
    }

    async fn copy_object(
        &self,
        req: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        copy::object(self, req.input).await
    }

    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let DeleteObjectInput { bucket, key, .. } = req.input;
        self.change(None, move |index| Ok(((), index.remove(&bucket, &[&key])?))).await?;
        Ok(S3Response::with_status(DeleteObjectOutput::default(), http::StatusCode::NO_CONTENT))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let DeleteObjectsInput { bucket, delete, .. } = req.input;
        let keys: Vec<String> = delete.objects.into_iter().map(|object| object.key).collect();
        if keys.len() > 1000 {
            return Err(s3_error!(MalformedXML, "more than 1000 keys"));
        }
        let keys = self
            .change(None, move |index| {
                let borrowed: Vec<&str> = keys.iter().map(String::as_str).collect();
                let freed = index.remove(&bucket, &borrowed)?;
                Ok((keys, freed))
            })
            .await?;
        let quiet = delete.quiet.unwrap_or(false);
        let deleted = (!quiet).then(|| {
            keys.into_iter()
                .map(|key| DeletedObject { key: Some(key), ..Default::default() })
                .collect()
        });
        Ok(S3Response::new(DeleteObjectsOutput { deleted, ..Default::default() }))
    }

    async fn list_objects(
        &self,
        req: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        listing::objects(self, req.input).await
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        listing::objects_v2(self, req.input).await
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        multipart::create(self, req.input).await
    }

    async fn upload_part(
        &self,
        req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        multipart::part(self, req.input, req.trailing_headers).await
    }

    async fn upload_part_copy(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        copy::part(self, req.input).await
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        multipart::complete(self, req.input).await
    }

    async fn abort_multipart_upload(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let AbortMultipartUploadInput { bucket, key, upload_id, .. } = req.input;
        self.change(None, move |index| Ok(((), index.abort((&bucket, &key), &upload_id)?))).await?;
        Ok(S3Response::with_status(
            AbortMultipartUploadOutput::default(),
            http::StatusCode::NO_CONTENT,
        ))
    }

    async fn list_parts(
        &self,
        req: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        listing::parts(self, req.input).await
    }

    async fn list_multipart_uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        listing::uploads(self, req.input).await
    }
}
