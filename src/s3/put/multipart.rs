//! Multipart uploads: create, parts in parallel, complete; aborted on every other way out.

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, MultipartUpload};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::Upload;
use super::plan::Span;
use crate::net::{CLEAN_UP_LIMIT, Policy};
use crate::s3::copy::PartCopy;
use crate::s3::error::Error;
use crate::s3::etag;
use crate::s3::object::Object;
use crate::s3::store::Store;
use crate::telemetry::chain;

impl Upload<'_> {
    /// Uploads the file in parts. On failure or cancellation nothing of it stays in the store.
    pub(super) async fn multipart(
        &self,
        concurrency: usize,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let unfinished = Unfinished { target: Some(self.object.to_string()) };
        let mut upload_id = None;
        let result = self.attempt(&mut upload_id, concurrency, cancel).await;
        if result.is_err() {
            self.abort(upload_id.as_deref()).await;
        }
        unfinished.settled();
        result
    }

    /// All steps of an upload; `upload_id` is set as soon as there is something to abort.
    async fn attempt(
        &self,
        upload_id: &mut Option<String>,
        concurrency: usize,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let id = upload_id.insert(self.create(cancel).await?);
        let parts = self.send_parts(id, concurrency, cancel).await?;
        self.complete(id, parts, cancel).await
    }

    async fn create(&self, cancel: &CancellationToken) -> Result<String, Error> {
        let target = self.object.to_string();
        let create = || {
            let request = self.store.client.create_multipart_upload();
            let mut request = request.bucket(&self.object.bucket).key(&self.object.key);
            for (name, value) in &self.metadata {
                request = request.metadata(name, value);
            }
            request.send()
        };
        let answer = self.store.call("begin the upload of", &target, cancel, create).await?;
        answer.upload_id.ok_or_else(|| Error::Unanswered {
            operation: "begin the upload of",
            target,
            source: "the answer has no upload id".into(),
        })
    }

    async fn send_parts(
        &self,
        upload_id: &str,
        concurrency: usize,
        cancel: &CancellationToken,
    ) -> Result<Vec<CompletedPart>, Error> {
        stream::iter(0..self.digests.parts.len())
            .map(|index| self.send_part(upload_id, index, cancel))
            .buffered(concurrency.max(1))
            .try_collect()
            .await
    }

    async fn send_part(
        &self,
        upload_id: &str,
        index: usize,
        cancel: &CancellationToken,
    ) -> Result<CompletedPart, Error> {
        let Span { offset, length, from } = self.spans[index];
        let md5 = &self.digests.parts[index];
        let number = index as i32 + 1;
        if let (Some(reuse), Some(start)) = (self.reuse, from) {
            let (from, etag, to) = (&reuse.object, &reuse.etag, self.object);
            let part = PartCopy { from, etag, start, length, to, upload_id, number };
            if let Some(copied) = self.copy(&part, md5, cancel).await? {
                return Ok(copied);
            }
        }
        let target = format!("{} part {number}", self.object);
        let send = || {
            let request = self.store.client.upload_part();
            request
                .bucket(&self.object.bucket)
                .key(&self.object.key)
                .upload_id(upload_id)
                .part_number(number)
                .content_length(length as i64)
                .content_md5(STANDARD.encode(md5))
                .body(self.body(offset, length))
                .send()
        };
        let limit = self.store.part_time();
        let answer = self.store.call_within(limit, "upload", &target, cancel, send).await?;
        let part_etag = etag::unquoted(answer.e_tag().unwrap_or_default());
        self.same(&format!("part {number} etag"), &etag::single(md5), part_etag)?;
        self.meter.add(length);
        Ok(CompletedPart::builder().part_number(number).e_tag(part_etag).build())
    }

    async fn complete(
        &self,
        upload_id: &str,
        parts: Vec<CompletedPart>,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = || {
            let request = self.store.client.complete_multipart_upload();
            let request = request.bucket(&self.object.bucket).key(&self.object.key);
            request.upload_id(upload_id).multipart_upload(parts.clone()).send()
        };
        let target = self.object.to_string();
        let limit = self.store.object_time();
        match self
            .store
            .call_within(limit, "complete the upload of", &target, cancel, complete)
            .await
        {
            // A try whose answer was lost did complete it: the HEAD that follows has the last word.
            Err(error) if error.code() == Some("NoSuchUpload") => {
                let head = self.store.head(self.object, cancel).await;
                head.map(|_| ()).map_err(|_| error)
            }
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// Aborts what was begun for this key, an upload whose id never reached us included.
    ///
    /// Not cancellable: it runs because something was cancelled or failed. The policy bounds it.
    async fn abort(&self, upload_id: Option<&str>) {
        let store = self.store.with_policy(Policy::CLEAN_UP);
        let aborted = async {
            if let Some(id) = upload_id {
                store.abort_upload(self.object, id).await?;
            }
            for (object, id) in
                store.unfinished_uploads(&self.object.bucket, &self.object.key).await?
            {
                if object == *self.object {
                    store.abort_upload(&object, &id).await?;
                }
            }
            Ok(())
        };
        let aborted = tokio::time::timeout(CLEAN_UP_LIMIT, aborted).await;
        if let Err(error) = aborted.unwrap_or(Err(Error::Cancelled)) {
            tracing::error!(
                object = %self.object,
                upload_id,
                error = %chain(&error),
                "cannot abort the multipart upload; its parts take space until it is aborted by hand"
            );
        }
    }
}

impl Store {
    /// The uploads below `prefix` that are neither completed nor aborted: object and upload id.
    ///
    /// None where the store cannot list them.
    pub async fn unfinished_uploads(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> Result<Vec<(Object, String)>, Error> {
        let never = CancellationToken::new();
        let list = || self.client.list_multipart_uploads().bucket(bucket).prefix(prefix).send();
        let target = format!("s3://{bucket}/{prefix}*");
        let uploads = match self.call("list the uploads of", &target, &never, list).await {
            Err(error) if error.is_not_implemented() => return Ok(Vec::new()),
            listed => listed?.uploads.unwrap_or_default(),
        };
        let named =
            |upload: MultipartUpload| Some((Object::new(bucket, upload.key?), upload.upload_id?));
        Ok(uploads.into_iter().filter_map(named).collect())
    }

    /// Aborts an upload; one that is gone is aborted already.
    async fn abort_upload(&self, object: &Object, id: &str) -> Result<(), Error> {
        let never = CancellationToken::new();
        let abort = || {
            let request = self.client.abort_multipart_upload();
            request.bucket(&object.bucket).key(&object.key).upload_id(id).send()
        };
        match self.call("abort the upload of", &object.to_string(), &never, abort).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Tells of an upload that nobody completed or aborted because its future was dropped.
///
/// A drop cannot wait for the store, so cancelling goes by the token; this is the last resort.
struct Unfinished {
    target: Option<String>,
}

impl Unfinished {
    fn settled(mut self) {
        self.target = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(object) = &self.target {
            tracing::error!(
                object,
                "multipart upload dropped half-way, it must be aborted by hand"
            );
        }
    }
}
