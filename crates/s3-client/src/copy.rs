//! Copies inside the store, without a transfer to this machine.

use aws_sdk_s3::types::CompletedPart;
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::etag;
use super::object::Object;
use super::store::{Head, Store};

/// S3's limit of a copy in one request, in bytes.
const MAX_SINGLE: u64 = 5 * 1024 * 1024 * 1024;
/// Bytes of a part of a longer copy; also for an object of 5 TiB within 10,000 parts.
const PART: u64 = 1024 * 1024 * 1024;

/// A range of an object that becomes a part of another one.
pub(super) struct PartCopy<'a> {
    pub from: &'a Object,
    /// Without quotes; the copy is refused when the object has another one.
    pub etag: &'a str,
    /// Byte offset in `from`.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    pub to: &'a Object,
    pub upload_id: &'a str,
    pub number: i32,
}

impl Store {
    /// Creates one part of an upload that was begun, and gives its etag, without quotes.
    pub(super) async fn copy_part(
        &self,
        copy: &PartCopy<'_>,
        cancel: &CancellationToken,
    ) -> Result<String, Error> {
        let target = format!("{} part {}", copy.to, copy.number);
        let send = || {
            let request = self.client.upload_part_copy();
            request
                .copy_source(source(copy.from))
                .copy_source_if_match(format!("\"{}\"", copy.etag))
                .copy_source_range(format!("bytes={}-{}", copy.start, copy.start + copy.length - 1))
                .bucket(&copy.to.bucket)
                .key(&copy.to.key)
                .upload_id(copy.upload_id)
                .part_number(copy.number)
                .send()
        };
        let answer = self.change_within(self.part_time(), "copy", &target, cancel, send).await?;
        let found = answer.copy_part_result.and_then(|result| result.e_tag).unwrap_or_default();
        Ok(etag::unquoted(&found).to_owned())
    }

    /// Copies an object with its metadata. The etag of the copy may be another: ask for it.
    pub async fn copy(
        &self,
        from: &Object,
        to: &Object,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let head = self.head(from, cancel).await?;
        if head.size > MAX_SINGLE {
            return self.copy_parts(from, to, head, cancel).await;
        }
        self.change_within(self.object_time(), "copy", &from.to_string(), cancel, || {
            self.client
                .copy_object()
                .copy_source(source(from))
                .bucket(&to.bucket)
                .key(&to.key)
                .send()
        })
        .await?;
        Ok(())
    }

    async fn copy_parts(
        &self,
        from: &Object,
        to: &Object,
        head: Head,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let head = &head;
        let parts =
            |id: String| async move { self.copy_each_part(from, to, head, &id, cancel).await };
        self.multipart(to, &head.metadata, cancel, parts).await?;
        // Where the last answer was lost, something older may lie there instead.
        let made = self.head(to, cancel).await?;
        let shown = |head: &Head| format!("{} bytes, {:?}", head.size, head.metadata);
        let (expected, found) = (shown(head), shown(&made));
        if expected == found {
            return Ok(());
        }
        Err(Error::Differs {
            target: to.to_string(),
            what: "a copy of".to_owned(),
            expected,
            found,
        })
    }

    async fn copy_each_part(
        &self,
        from: &Object,
        to: &Object,
        head: &Head,
        upload: &str,
        cancel: &CancellationToken,
    ) -> Result<Vec<CompletedPart>, Error> {
        let mut parts = Vec::new();
        for (number, start) in (1..).zip((0..head.size).step_by(PART as usize)) {
            let end = (start + PART).min(head.size);
            let part = PartCopy {
                from,
                etag: &head.etag,
                start,
                length: end - start,
                to,
                upload_id: upload,
                number,
            };
            let etag = self.copy_part(&part, cancel).await?;
            parts.push(CompletedPart::builder().part_number(number).e_tag(etag).build());
        }
        Ok(parts)
    }
}

/// `x-amz-copy-source` is URL-encoded, its slashes are not.
fn source(object: &Object) -> String {
    let mut encoded = String::new();
    for byte in format!("{}/{}", object.bucket, object.key).bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::put::Options;
    use crate::testing::{BUCKET, Fault, Lab};
    use net::testing::{Seen, answer};

    /// Copies a small object in parts.
    async fn copy_in_parts(
        fault: impl Fn(&Seen) -> Fault + Send + Sync + 'static,
    ) -> (Lab, Result<(), Error>) {
        let lab = Lab::start(move |_, seen| fault(seen)).await;
        let (from, to) = (Object::new(BUCKET, "1/rootfs"), Object::new(BUCKET, "2/rootfs"));
        let never = CancellationToken::new();
        lab.store.put_bytes(&from, b"image", &Options::default(), &never).await.unwrap();
        let head = lab.store.head(&from, &never).await.unwrap();
        let copied = lab.store.copy_parts(&from, &to, head, &never).await;
        (lab, copied)
    }

    fn is_complete(seen: &Seen) -> bool {
        seen.method == "POST" && seen.query().contains("uploadId")
    }

    #[tokio::test]
    async fn a_copy_whose_last_answer_was_lost_is_complete() {
        let tries = AtomicUsize::new(0);
        let (lab, copied) = copy_in_parts(move |seen| match is_complete(seen) {
            true if tries.fetch_add(1, Ordering::Relaxed) == 0 => Fault::Lost(answer(504, "")),
            true => Fault::Refused(answer(404, "<Error><Code>NoSuchUpload</Code></Error>")),
            false => Fault::None,
        })
        .await;
        copied.unwrap();
        assert_eq!(lab.keys().await, ["1/rootfs", "2/rootfs"]);
    }

    #[tokio::test]
    async fn a_copy_that_fails_is_aborted() {
        let (lab, copied) = copy_in_parts(|seen| match is_complete(seen) {
            true => Fault::Refused(answer(403, "")),
            false => Fault::None,
        })
        .await;
        copied.unwrap_err();
        assert_eq!(lab.keys().await, ["1/rootfs"]);
        let aborts = lab.server.seen();
        assert!(aborts.iter().any(|seen| seen.method == "DELETE"), "nothing was aborted");
    }

    #[test]
    fn sources_are_encoded_but_for_slashes() {
        let source = |key| source(&Object::new("b", key));
        assert_eq!(source("id/rootfs"), "b/id/rootfs");
        assert_eq!(source("a b+c?d#e%"), "b/a%20b%2Bc%3Fd%23e%25");
    }
}
