//! The object store: ranged verified downloads, multipart uploads, etag arithmetic.
