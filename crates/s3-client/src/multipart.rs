//! Multipart uploads: begin, upload or copy the parts, complete; aborted on every other path.
//!
//! Called by `put`, whose parts are sent, and by `copy`, whose parts the store makes.

use std::collections::BTreeMap;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, MultipartUpload};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::object::Object;
use super::store::Store;
use linux::error::chain;
use net::{CLEAN_UP_LIMIT, Policy};

impl Store {
    /// Creates an object from the parts that `parts` uploads for the upload id it gets. On failure or
    /// cancellation nothing of it stays in the store.
    pub(super) async fn multipart<Fut>(
        &self,
        object: &Object,
        metadata: &BTreeMap<String, String>,
        cancel: &CancellationToken,
        parts: impl FnOnce(String) -> Fut,
    ) -> Result<(), Error>
    where
        Fut: Future<Output = Result<Vec<CompletedPart>, Error>>,
    {
        let unfinished = Unfinished { target: Some(object.to_string()) };
        let mut upload_id = None;
        let attempt = async {
            let id = upload_id.insert(self.begin(object, metadata, cancel).await?);
            let parts = parts(id.clone()).await?;
            self.complete(object, id, parts, cancel).await
        };
        let result = attempt.await;
        // Also after a success: a try to begin whose answer was lost has left another upload.
        let begun = upload_id.as_deref().filter(|_| result.is_err());
        self.abort(object, begun).await;
        unfinished.settled();
        result
    }

    async fn begin(
        &self,
        object: &Object,
        metadata: &BTreeMap<String, String>,
        cancel: &CancellationToken,
    ) -> Result<String, Error> {
        let target = object.to_string();
        let begin = || {
            let request = self.client.create_multipart_upload();
            let mut request = request.bucket(&object.bucket).key(&object.key);
            for (name, value) in metadata {
                request = request.metadata(name, value);
            }
            request.send()
        };
        let (what, limit) = ("begin the upload of", self.policy().answer);
        let answer = self.change_within(limit, what, &target, cancel, begin).await?;
        answer.upload_id.ok_or_else(|| Error::Unanswered {
            operation: what,
            target,
            source: "the response has no upload id".into(),
        })
    }

    async fn complete(
        &self,
        object: &Object,
        upload_id: &str,
        parts: Vec<CompletedPart>,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let complete = || {
            let request = self.client.complete_multipart_upload();
            let request = request.bucket(&object.bucket).key(&object.key);
            request.upload_id(upload_id).multipart_upload(parts.clone()).send()
        };
        let (limit, target) = (self.object_time(), object.to_string());
        match self.change_within(limit, "complete the upload of", &target, cancel, complete).await {
            // A try whose answer was lost did complete it: the caller's HEAD has the last word.
            Err(error) if error.code() == Some("NoSuchUpload") => {
                let head = self.head(object, cancel).await;
                head.map(|_| ()).map_err(|_| error)
            }
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// Aborts what was begun for this key, an upload whose id never reached us included.
    ///
    /// Not cancellable: it runs because something was cancelled or failed. The policy bounds it.
    async fn abort(&self, object: &Object, upload_id: Option<&str>) {
        if let Some(id) = upload_id {
            let store = self.with_policy(Policy::CLEAN_UP);
            let aborted = timeout(CLEAN_UP_LIMIT, store.abort_upload(object, id)).await;
            if let Err(error) = aborted.unwrap_or(Err(Error::Cancelled)) {
                tracing::error!(
                    %object,
                    upload_id,
                    error = %chain(&error),
                    "cannot abort the multipart upload; its parts use space until you abort it by \
                     hand"
                );
            }
        }
        self.abort_unfinished(&object.bucket, |found| found == object, &object.key).await;
    }

    /// Aborts the uploads below `prefix` that are `ours`; what could not be aborted is in the log.
    pub(super) async fn abort_unfinished(
        &self,
        bucket: &str,
        ours: impl Fn(&Object) -> bool,
        prefix: &str,
    ) {
        let store = self.with_policy(Policy::CLEAN_UP);
        let aborted = async {
            for (found, id) in store.unfinished_uploads(bucket, prefix).await? {
                if ours(&found) {
                    tracing::info!(object = %found, "aborted an unfinished upload");
                    store.abort_upload(&found, &id).await?;
                }
            }
            Ok(())
        };
        let aborted = timeout(CLEAN_UP_LIMIT, aborted).await;
        if let Err(error) = aborted.unwrap_or(Err(Error::Cancelled)) {
            tracing::warn!(
                uploads = format!("s3://{bucket}/{prefix}*"),
                error = %chain(&error),
                "cannot list unfinished uploads; their parts use space until you abort them by hand"
            );
        }
    }

    /// The uploads below `prefix` that are neither completed nor aborted: object and upload id.
    ///
    /// None where the store cannot list them.
    pub async fn unfinished_uploads(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> Result<Vec<(Object, String)>, Error> {
        let never = CancellationToken::new();
        let target = format!("s3://{bucket}/{prefix}*");
        let named =
            |upload: MultipartUpload| Some((Object::new(bucket, upload.key?), upload.upload_id?));
        let (mut found, mut after) = (Vec::new(), (None, None));
        loop {
            let list = || {
                let (key, id) = after.clone();
                let request = self.client.list_multipart_uploads().bucket(bucket).prefix(prefix);
                request.set_key_marker(key).set_upload_id_marker(id).send()
            };
            let page = match self.call("list the uploads of", &target, &never, list).await {
                Err(error) if error.is_not_implemented() => return Ok(found),
                page => page?,
            };
            let is_last = !page.is_truncated.unwrap_or_default();
            found.extend(page.uploads.unwrap_or_default().into_iter().filter_map(named));
            let next = (page.next_key_marker, page.next_upload_id_marker);
            // A store that returns no progress must not cause an endless loop.
            if is_last || next == after || next.0.is_none() {
                return Ok(found);
            }
            after = next;
        }
    }

    /// Aborts an upload; success if it is already aborted.
    pub async fn abort_upload(&self, object: &Object, id: &str) -> Result<(), Error> {
        let never = CancellationToken::new();
        let abort = || {
            let request = self.client.abort_multipart_upload();
            request.bucket(&object.bucket).key(&object.key).upload_id(id).send()
        };
        match self.call("abort the upload of", &object.to_string(), &never, abort).await {
            Err(error) if !error.is_removed() => Err(error),
            _ => Ok(()),
        }
    }
}

/// Logs an upload that was neither completed nor aborted because its future was dropped.  A drop
/// cannot wait for the store, so cancelling goes by the token; this is the last resort.
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
            tracing::error!(object, "multipart upload dropped before its end; abort it by hand");
        }
    }
}
