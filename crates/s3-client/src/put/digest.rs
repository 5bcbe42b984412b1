//! The first pass over a file: md5 of the whole and of each part, on two threads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use md5::{Digest, Md5};
use tokio_util::sync::CancellationToken;

use super::plan::Span;
use crate::error::Error;
use crate::etag::Md5Sum;
use crate::object::Object;

/// Bytes read at a time.
const BLOCK: usize = 1 << 20;

/// What is known of a file before it is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Digests {
    /// Bytes.
    pub size: u64,
    pub md5: Md5Sum,
    /// Of each span, in their order.
    pub parts: Vec<Md5Sum>,
}

/// Hashes `file`, which must not change until it is uploaded. The `spans` cover it.
pub(super) async fn of(
    object: &Object,
    file: Arc<File>,
    spans: Arc<[Span]>,
    cancel: &CancellationToken,
) -> Result<Digests, Error> {
    let stop = cancel.clone();
    let hashed = tokio::task::spawn_blocking(move || hash(&file, &spans, &stop)).await;
    match hashed {
        Ok(Ok(digests)) => Ok(digests),
        _ if cancel.is_cancelled() => Err(Error::Cancelled),
        Ok(Err(source)) => Err(Error::Local { target: object.to_string(), source }),
        Err(panic) => {
            Err(Error::Local { target: object.to_string(), source: io::Error::other(panic) })
        }
    }
}

/// Both hashes run side by side: the second reader finds its bytes in the page cache.
fn hash(file: &File, spans: &[Span], cancel: &CancellationToken) -> io::Result<Digests> {
    let size = spans.iter().map(|span| span.length).sum();
    let (md5, parts) = std::thread::scope(|scope| {
        let parts = scope.spawn(|| {
            spans.iter().map(|span| hash_range(file, span.offset, span.length, cancel)).collect()
        });
        let md5 = hash_range(file, 0, size, cancel);
        (md5, parts.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let parts: io::Result<_> = parts;
    Ok(Digests { size, md5: md5?, parts: parts? })
}

fn hash_range(file: &File, start: u64, len: u64, cancel: &CancellationToken) -> io::Result<Md5Sum> {
    let mut md5 = Md5::new();
    let mut block = vec![0; BLOCK.min(len as usize)];
    let mut at = 0;
    while at < len {
        if cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let wanted = block.len().min((len - at) as usize);
        file.read_exact_at(&mut block[..wanted], start + at)?;
        md5.update(&block[..wanted]);
        at += wanted as u64;
    }
    Ok(md5.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::plan::spans;
    use super::*;

    #[test]
    fn whole_and_parts_are_hashed_and_the_last_part_may_be_short() {
        let bytes: Vec<u8> = (0..2_500_000u32).map(|i| (i % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        let digests =
            hash(&file, &spans(2_500_000, 1_000_000, &[]), &CancellationToken::new()).unwrap();
        assert_eq!(digests.md5, Md5Sum::from(Md5::digest(&bytes)));
        let parts: Vec<Md5Sum> =
            bytes.chunks(1_000_000).map(|part| Md5::digest(part).into()).collect();
        assert_eq!(digests.parts, parts);
        assert_eq!(digests.size, 2_500_000);
    }

    #[tokio::test]
    async fn cancelling_stops_the_pass() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 20).unwrap();
        let cancel = CancellationToken::new();
        cancel.cancel();
        let spans = spans(64 << 20, 1 << 20, &[]).into();
        let result = of(&Object::new("b", "k"), Arc::new(file), spans, &cancel).await;
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    }
}
