//! Parts that the store copies from one of its objects, without a transfer.

use std::sync::atomic::Ordering;

use aws_sdk_s3::types::CompletedPart;
use tokio_util::sync::CancellationToken;

use super::Upload;
use crate::copy::PartCopy;
use crate::error::Error;
use crate::etag::{self, Md5Sum};
use linux::error::chain;

impl Upload<'_> {
    /// Has the store copy a part, and compares it with the md5 of the bytes here. `None` where the
    /// part must be sent instead: the store cannot copy, the object is not the one it was, or the
    /// copy is another. That is logged once, and no more copies are tried.
    pub(super) async fn copy(
        &self,
        part: &PartCopy<'_>,
        md5: &Md5Sum,
        cancel: &CancellationToken,
    ) -> Result<Option<CompletedPart>, Error> {
        if self.copies_refused.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let reason = match self.store.copy_part(part, cancel).await {
            Ok(found) if found == etag::single(md5) => {
                self.meter.add(part.length);
                self.copied.fetch_add(part.length, Ordering::Relaxed);
                let done = CompletedPart::builder().part_number(part.number).e_tag(found);
                return Ok(Some(done.build()));
            }
            Ok(found) => format!("the copy of part {} has the etag {found:?}", part.number),
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) => chain(&error),
        };
        if !self.copies_refused.swap(true, Ordering::Relaxed) {
            tracing::warn!(from = %part.from, to = %part.to, %reason,
                "the store cannot copy parts of the base image; uploading them instead");
        }
        Ok(None)
    }
}
