//! Downloads one object to one file, completely and verified; an existing correct file is kept.

use std::io;
use std::path::{Path, PathBuf};

use progress::Progress;
use tokio_util::sync::CancellationToken;

use super::digest::{self, Sums};
use crate::telemetry::progress::Meter;
use s3_client::{self as s3, Head, Object, Store, get};

/// An object and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub object: Object,
    /// From a manifest, hex; empty if unknown.
    pub md5: String,
}

/// A file that holds the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub sums: Sums,
    /// The file existed before.
    pub existed: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot look up {object}")]
    Head { object: Object, source: Box<s3::Error> },
    #[error("cannot fetch {object}")]
    Get { object: Object, source: Box<get::Error> },
    #[error("cannot use the file {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{object} was downloaded, but {} has md5 {found}, not {expected}", path.display())]
    Damaged { object: Object, path: PathBuf, expected: String, found: String },
}

/// Downloads the object to `path`. During the download the file has another name (`.part`), under which a
/// run that was interrupted resumes.
pub async fn fetch(
    store: &Store,
    wanted: &Wanted,
    path: &Path,
    meter: &Meter,
    cancel: &CancellationToken,
) -> Result<Fetched, Error> {
    let object = &wanted.object;
    let head = store.head(object, cancel).await;
    let head =
        head.map_err(|source| Error::Head { object: object.clone(), source: source.into() })?;
    let expected = expected_md5(&wanted.md5, &head);
    if let Some(sums) = present(path, &head, expected.as_deref(), cancel).await? {
        meter.add(sums.size);
        return Ok(Fetched { sums, existed: true });
    }
    let part = beside(path, ".part");
    let options = get::Options {
        md5: expected.clone(),
        size: Some(head.size),
        etag: Some(head.etag.clone()).filter(|etag| !etag.is_empty()),
        resume: true,
        policy: store.policy(),
        ..get::Options::default()
    };
    let had_part = part.exists();
    let meter = Part { meter, before: meter.done() };
    let get = || {
        get::to_file(store.http(), store.source(object.clone()), &part, &options, &meter, cancel)
    };
    let got = match get().await {
        // The partial file was of another object, or not on disk; it is removed now.
        Err(get::Error::Md5 { .. }) if had_part => get().await,
        got => got,
    };
    got.map_err(|source| Error::Get { object: object.clone(), source: source.into() })?;
    let sums = sums_of(&part, cancel).await?;
    if let Some(expected) = expected.filter(|md5| *md5 != sums.md5) {
        let (object, path) = (object.clone(), part.clone());
        return Err(Error::Damaged { object, path, expected, found: sums.md5 });
    }
    keep(&part, path)?;
    Ok(Fetched { sums, existed: false })
}

/// Counts an object for a longer step, whose total is of all its objects. A total that is not known is the
/// object's.
struct Part<'a> {
    meter: &'a Meter,
    /// What was done before this object.
    before: u64,
}

impl Progress for Part<'_> {
    fn set_total(&self, total: u64) {
        if self.meter.total() == 0 {
            self.meter.set_total(total);
        }
    }

    fn add(&self, amount: u64) {
        self.meter.add(amount);
    }

    fn set(&self, done: u64) {
        self.meter.set(self.before + done);
    }
}

/// The md5 by which content is known: the manifest's, that of the object's metadata, or an etag that is
/// one (a single put).
pub fn expected_md5(said: &str, head: &Head) -> Option<String> {
    let candidates =
        [said, head.metadata.get("md5sum").map_or("", String::as_str), head.etag.as_str()];
    let is_md5 = |text: &&str| text.len() == 32 && text.bytes().all(|it| it.is_ascii_hexdigit());
    candidates.into_iter().find(is_md5).map(str::to_ascii_lowercase)
}

/// The sums of a file that is as long as the object and has its md5.
async fn present(
    path: &Path,
    head: &Head,
    expected: Option<&str>,
    cancel: &CancellationToken,
) -> Result<Option<Sums>, Error> {
    let Some(expected) = expected else { return Ok(None) };
    match std::fs::symlink_metadata(path) {
        Ok(data) if data.is_file() && data.len() == head.size => {}
        Ok(data) if data.is_dir() => {
            let source = io::ErrorKind::IsADirectory.into();
            return Err(Error::File { path: path.to_owned(), source });
        }
        _ => return Ok(None),
    }
    Ok(Some(sums_of(path, cancel).await?).filter(|sums| sums.md5 == expected))
}

async fn sums_of(path: &Path, cancel: &CancellationToken) -> Result<Sums, Error> {
    let sums = digest::of_path(path, cancel).await;
    sums.map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Gives a finished file its name, on disk before the name is.
pub fn keep(part: &Path, path: &Path) -> Result<(), Error> {
    let kept = std::fs::File::open(part)
        .and_then(|file| file.sync_all())
        .and_then(|()| std::fs::rename(part, path));
    kept.map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Writes a small file whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let part = beside(path, ".part");
    let written = std::fs::write(&part, bytes);
    written.map_err(|source| Error::File { path: part.clone(), source })?;
    keep(&part, path)
}

pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}
