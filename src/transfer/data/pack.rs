//! An export as one stream: a tar archive, compressed with zstd, for tapes and pipes. Documents are
//! first, then every artifact, verified before it is written; the list of checksums is last.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use md5::Digest;
use sha2::Sha256;
use tokio_util::sync::CancellationToken;

use super::export::Summary;
use super::layout::SUMS;
use super::plan::{Plan, Planned};
use super::sums;
use crate::telemetry::progress::{Meter, Unit};
use crate::transfer::backend::Backend;
use crate::transfer::fetch::{self, fetch};

/// zstd's own default; most of an export is compressed already.
const LEVEL: i32 = 3;
/// Objects that are fetched ahead of the one that is written.
const AHEAD: usize = 2;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    #[error("cannot use the directory {}", path.display())]
    Scratch { path: PathBuf, source: io::Error },
    #[error("{path}")]
    File { path: String, source: fetch::Error },
}

/// Writes the export to `out`. Artifacts lie in `scratch` while they are verified, a few at a time.
pub async fn pack(
    backend: &Backend,
    plan: &Plan,
    out: Box<dyn Write + Send>,
    scratch: &Path,
    cancel: &CancellationToken,
) -> Result<Summary, Error> {
    let spool = tempfile::Builder::new().prefix("ims-export-").tempdir_in(scratch);
    let spool = spool.map_err(|source| Error::Scratch { path: scratch.to_owned(), source })?;
    let (files, queue) = tokio::sync::mpsc::channel(AHEAD);
    let mut documents = Vec::new();
    for (part, document) in &plan.documents {
        let json = serde_json::to_vec(document).expect("JSON values can be written as JSON");
        documents.push((part.document().to_owned(), json));
    }
    let writer = tokio::task::spawn_blocking(move || write(out, documents, queue));
    let fetched = send(backend, plan, spool.path(), files, cancel).await;
    let written = writer.await.unwrap_or_else(|panic| Err(io::Error::other(panic)));
    fetched?;
    written.map_err(Error::Write)?;
    Ok(Summary::of(plan))
}

/// A verified file on its way into the archive.
struct Ready {
    name: String,
    path: PathBuf,
    sha256: String,
}

/// Says that no more files come, and that all have come.
enum Next {
    File(Ready),
    End,
}

async fn send(
    backend: &Backend,
    plan: &Plan,
    spool: &Path,
    files: tokio::sync::mpsc::Sender<Next>,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let meter = Meter::start("export", Unit::Bytes, plan.bytes().max(1));
    for (number, file) in plan.files.iter().enumerate() {
        let Planned { path: name, wanted, .. } = file;
        let path = spool.join(number.to_string());
        let fetched = fetch(&backend.store, wanted, &path, &meter, cancel).await;
        let sums = fetched.map_err(|source| Error::File { path: name.clone(), source })?.sums;
        let ready = Ready { name: name.clone(), path, sha256: sums.sha256 };
        if files.send(Next::File(ready)).await.is_err() {
            // The writer has failed, and says why.
            return Ok(());
        }
    }
    meter.finish();
    let _ = files.send(Next::End).await;
    Ok(())
}

/// Without [`Next::End`] the compressed stream is not terminated, so that no reader accepts it as
/// complete.
fn write(
    out: Box<dyn Write + Send>,
    documents: Vec<(String, Vec<u8>)>,
    mut queue: tokio::sync::mpsc::Receiver<Next>,
) -> io::Result<()> {
    let mut builder = tar::Builder::new(zstd::stream::write::Encoder::new(out, LEVEL)?);
    let mut all = Vec::new();
    for (name, bytes) in documents {
        append(&mut builder, &name, bytes.len() as u64, &bytes[..])?;
        all.push((name, hex::encode(Sha256::digest(&bytes))));
    }
    loop {
        match queue.blocking_recv() {
            None => return Ok(()),
            Some(Next::End) => break,
            Some(Next::File(ready)) => {
                let file = File::open(&ready.path)?;
                append(&mut builder, &ready.name, file.metadata()?.len(), file)?;
                std::fs::remove_file(&ready.path)?;
                all.push((ready.name, ready.sha256));
            }
        }
    }
    let list = sums::list(&mut all);
    append(&mut builder, SUMS, list.len() as u64, list.as_bytes())?;
    builder.into_inner()?.finish()?.flush()
}

fn append<W: Write>(
    builder: &mut tar::Builder<W>,
    name: &str,
    size: u64,
    content: impl io::Read,
) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(jiff::Timestamp::now().as_second().max(0) as u64);
    builder.append_data(&mut header, name, content)
}
