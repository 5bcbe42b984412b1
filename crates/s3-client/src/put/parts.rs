//! The parts of an upload, several in parallel: uploaded, or copied inside the store.

use std::sync::OnceLock;

use aws_sdk_s3::types::CompletedPart;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::Upload;
use super::plan::Span;
use crate::copy::PartCopy;
use crate::error::Error;
use crate::etag;

impl Upload<'_> {
    /// After a failure no part is begun any more, and those that are on their way are waited for a little:
    /// one that arrives after its upload was aborted would stay in the store.
    pub(super) async fn send_parts(
        &self,
        upload_id: &str,
        concurrency: usize,
        cancel: &CancellationToken,
    ) -> Result<Vec<CompletedPart>, Error> {
        let (stop, mut first) = (&cancel.child_token(), OnceLock::new());
        let failed = &first;
        let send = |index| async move {
            let sent = self.send_part(upload_id, index, stop).await;
            sent.map_err(|error| {
                let _ = failed.set(error);
                stop.cancel();
            })
        };
        let parts = stream::iter(0..self.digests.parts.len()).map(send);
        let sent: Vec<_> = parts.buffered(concurrency.max(1)).collect().await;
        let sent: Result<_, ()> = sent.into_iter().collect();
        sent.map_err(|()| first.take().unwrap_or(Error::Cancelled))
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
        let answer = self.store.change_within(limit, "upload", &target, cancel, send).await?;
        let part_etag = etag::unquoted(answer.e_tag().unwrap_or_default());
        self.same(&format!("part {number} etag"), &etag::single(md5), part_etag)?;
        self.meter.add(length);
        Ok(CompletedPart::builder().part_number(number).e_tag(part_etag).build())
    }
}
