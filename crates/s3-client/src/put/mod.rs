//! Uploads: one put for small objects, parts in parallel for large ones, verified at the end.
//!
//! Parts that are already in another object of the store are copied there instead of uploaded.
//!
//! The object's metadata must carry its md5 when the upload is created, so a first pass hashes the
//! whole and the parts; the second pass sends them, from the page cache. What the store must answer
//! as etag is known by then, and compared.

mod copy;
mod digest;
mod parts;
mod plan;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use aws_smithy_types::byte_stream::ByteStream;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio_util::sync::CancellationToken;

use self::digest::Digests;
use self::plan::Span;
pub use self::plan::{Reuse, Shared};
use super::error::Error;
use super::etag::{self, MIN_PART_SIZE};
use super::object::Object;
use super::store::Store;
use progress::Progress;

/// Metadata key of the md5 (hex) of the whole object (contract section 5).
const MD5_KEY: &str = "md5sum";

/// The options of an upload.
#[derive(Debug, Clone)]
pub struct Options {
    /// User metadata of the object; `md5sum` is added.
    pub metadata: BTreeMap<String, String>,
    /// Smallest size of a part in bytes; it grows where [`etag::MAX_PARTS`] would not be enough.
    /// What is smaller than one part goes up in a single put.
    pub part_size: u64,
    /// Parts on their way at once. Each holds a few blocks of 256 KiB, no more.
    pub concurrency: usize,
    /// Where parts may be copied from.
    pub reuse: Option<Reuse>,
    /// The md5 (hex) that the file must have: another one is not sent.
    pub md5: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            metadata: BTreeMap::new(),
            part_size: MIN_PART_SIZE,
            concurrency: 6,
            reuse: None,
            md5: None,
        }
    }
}

/// An object that the store holds as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// Without quotes.
    pub etag: String,
    /// Hex.
    pub md5: String,
    /// Bytes.
    pub size: u64,
    /// How many of them the store copied from an object that it had.
    pub copied: u64,
}

impl Store {
    /// Uploads a file and verifies size, etag and metadata of what the store then holds.
    ///
    /// Whatever fails, a multipart upload that was begun is aborted before this returns. Uploads
    /// that others have begun for the same key are aborted with it: use keys of your own.
    pub async fn put_file(
        &self,
        object: &Object,
        file: File,
        options: &Options,
        meter: &dyn Progress,
        cancel: &CancellationToken,
    ) -> Result<Uploaded, Error> {
        let local = |source| Error::Local { target: object.to_string(), source };
        let size = file.metadata().map_err(local)?.len();
        let shared = options.reuse.as_ref().map_or(&[][..], |reuse| &reuse.ranges);
        let spans: Arc<[Span]> = plan::spans(size, options.part_size, shared).into();
        let file = Arc::new(file);
        let digests = digest::of(object, file.clone(), spans.clone(), cancel).await?;
        let md5 = hex::encode(digests.md5);
        if let Some(expected) = options.md5.as_ref().filter(|it| !it.eq_ignore_ascii_case(&md5)) {
            let (target, expected) = (object.to_string(), expected.clone());
            return Err(Error::Wrong { target, expected, found: md5 });
        }
        let mut metadata = options.metadata.clone();
        metadata.insert(MD5_KEY.to_owned(), md5.clone());
        let upload = Upload {
            store: self,
            object,
            file,
            spans,
            digests,
            metadata,
            reuse: options.reuse.as_ref(),
            copies_refused: AtomicBool::new(false),
            copied: AtomicU64::new(0),
            meter,
        };
        let etag = if size < options.part_size {
            upload.single(cancel).await?;
            etag::single(&upload.digests.md5)
        } else {
            let (upload, concurrency) = (&upload, options.concurrency);
            let parts =
                |id: String| async move { upload.send_parts(&id, concurrency, cancel).await };
            self.multipart(object, &upload.metadata, cancel, parts).await?;
            etag::multipart(&upload.digests.parts)
        };
        upload.verify(&etag, cancel).await?;
        let copied = upload.copied.into_inner();
        Ok(Uploaded { etag, md5, size, copied })
    }

    /// Uploads bytes that are at hand: a manifest.
    pub async fn put_bytes(
        &self,
        object: &Object,
        bytes: &[u8],
        options: &Options,
        cancel: &CancellationToken,
    ) -> Result<Uploaded, Error> {
        let local = |source| Error::Local { target: object.to_string(), source };
        let file = linux::files::memory_file(bytes).map_err(local)?;
        self.put_file(object, file, options, &(), cancel).await
    }
}

/// One upload on its way.
struct Upload<'a> {
    store: &'a Store,
    object: &'a Object,
    file: Arc<File>,
    spans: Arc<[Span]>,
    digests: Digests,
    metadata: BTreeMap<String, String>,
    reuse: Option<&'a Reuse>,
    /// Set when the store did not copy: from then on parts are sent.
    copies_refused: AtomicBool,
    /// Bytes.
    copied: AtomicU64,
    meter: &'a dyn Progress,
}

impl Upload<'_> {
    async fn single(&self, cancel: &CancellationToken) -> Result<(), Error> {
        let size = self.digests.size;
        let send = || {
            let mut request = self
                .store
                .client
                .put_object()
                .bucket(&self.object.bucket)
                .key(&self.object.key)
                .content_length(size as i64)
                .content_md5(STANDARD.encode(self.digests.md5))
                .body(self.body(0, size));
            for (name, value) in &self.metadata {
                request = request.metadata(name, value);
            }
            request.send()
        };
        let (target, limit) = (self.object.to_string(), self.store.part_time());
        self.store.change_within(limit, "upload", &target, cancel, send).await?;
        self.meter.add(size);
        Ok(())
    }

    /// A new stream of `len` bytes from `offset`, so that every try sends all of them.
    fn body(&self, offset: u64, len: u64) -> ByteStream {
        ByteStream::new(stream::file_range(self.file.clone(), offset, len))
    }

    /// Compares what the store holds with what was sent.
    async fn verify(&self, etag: &str, cancel: &CancellationToken) -> Result<(), Error> {
        let head = self.store.head(self.object, cancel).await?;
        self.same("etag", etag, &head.etag)?;
        self.same("size", &self.digests.size.to_string(), &head.size.to_string())?;
        for (name, value) in &self.metadata {
            let found = head.metadata.get(name).map_or("", String::as_str);
            self.same(&format!("metadata {name}"), value, found)?;
        }
        Ok(())
    }

    fn same(&self, what: &str, expected: &str, found: &str) -> Result<(), Error> {
        if expected == found {
            return Ok(());
        }
        Err(Error::Differs {
            target: self.object.to_string(),
            what: what.to_owned(),
            expected: expected.to_owned(),
            found: found.to_owned(),
        })
    }
}
