//! The parts of an upload, several at once: sent, or copied where the store has them.

use aws_sdk_s3::types::CompletedPart;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, TryStreamExt, stream};
use tokio_util::sync::CancellationToken;

use super::Upload;
use super::plan::Span;
use crate::s3::copy::PartCopy;
use crate::s3::error::Error;
use crate::s3::etag;

impl Upload<'_> {
    pub(super) async fn send_parts(
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
}
