//! Checksums of local files: md5 for manifests, sha256 for the list of an export.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use md5::{Digest, Md5};
use sha2::Sha256;
use tokio_util::sync::CancellationToken;

/// Bytes read at a time.
const BLOCK: usize = 1 << 20;

/// What a file holds. Sums in hex.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sums {
    /// Bytes.
    pub size: u64,
    pub md5: String,
    pub sha256: String,
}

/// Reads a file to its end.
pub fn of(mut file: &File, cancel: &CancellationToken) -> io::Result<Sums> {
    let (mut md5, mut sha256) = (Md5::new(), Sha256::new());
    let mut block = vec![0; BLOCK];
    let mut size = 0;
    loop {
        if cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let read = file.read(&mut block)?;
        if read == 0 {
            break;
        }
        md5.update(&block[..read]);
        sha256.update(&block[..read]);
        size += read as u64;
    }
    Ok(Sums { size, md5: hex::encode(md5.finalize()), sha256: hex::encode(sha256.finalize()) })
}

/// The same by path, off the async threads.
pub async fn of_path(path: &Path, cancel: &CancellationToken) -> io::Result<Sums> {
    let (path, cancel) = (path.to_owned(), cancel.clone());
    let summed = tokio::task::spawn_blocking(move || of(&File::open(path)?, &cancel));
    summed.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
}
