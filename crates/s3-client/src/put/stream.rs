//! A range of a file as the body of a request, read block by block while it is sent.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use futures::stream;
use http_body::Frame;
use http_body_util::StreamBody;

/// Bytes read at a time, which is what a body holds in memory.
pub(super) const BLOCK: u64 = 256 << 10;

/// The bytes `offset..offset + len` of `file`. A file that is shorter breaks the request.
pub(super) fn file_range(file: Arc<File>, offset: u64, len: u64) -> SdkBody {
    let end = offset + len;
    let blocks = stream::unfold((file, offset), move |(file, at)| async move {
        if at == end {
            return None;
        }
        let wanted = BLOCK.min(end - at);
        let block = read(file.clone(), at, wanted).await;
        // After an error the stream ends: the caller drops the request anyway.
        let next = if block.is_ok() { at + wanted } else { end };
        Some((block.map(Frame::data), (file, next)))
    });
    SdkBody::from_body_1_x(StreamBody::new(blocks))
}

async fn read(file: Arc<File>, at: u64, len: u64) -> io::Result<Bytes> {
    tokio::task::spawn_blocking(move || {
        let mut block = vec![0; len as usize];
        file.read_exact_at(&mut block, at)?;
        Ok(block.into())
    })
    .await
    .map_err(io::Error::other)?
}
