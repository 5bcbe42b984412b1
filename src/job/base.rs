//! The base image of a root: packing reuses its blocks, publishing its parts, and the change list
//! compares with it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::fetch::Lookup;
use crate::workspace::Workspace;
use ims_client::Link;
use s3_client::Store;
use s3_client::put::{Reuse, Shared};
use squashfs::diff::{self, Diff};
use squashfs::reuse::{Changes, Range, Record};

/// Version of `changes.json`.
const VERSION: &str = "1.0";

/// The image in the job's directory, and how the changes since are known.
#[derive(Debug)]
pub(super) struct Base {
    pub image: PathBuf,
    since: Since,
}

#[derive(Debug)]
enum Since {
    Overlay {
        upper: PathBuf,
        work: Option<PathBuf>,
    },
    Unpacked(Record),
    /// Unpacked by an earlier run, whose record went with it.
    Unknown,
}

impl Base {
    /// What `workspace` was made from. `record` is the one made when it was unpacked, if this run did.
    pub fn of(workspace: &Workspace, record: Option<Record>) -> Self {
        let since = match (workspace.changes_dir(), record) {
            (Some(upper), _) => Since::Overlay { upper, work: workspace.work_dir() },
            (None, Some(record)) => Since::Unpacked(record),
            (None, None) => Since::Unknown,
        };
        Self { image: workspace.image().to_owned(), since }
    }

    pub fn changes(&self) -> Changes<'_> {
        match &self.since {
            Since::Overlay { upper, work } => Changes::Overlay { upper, work: work.as_deref() },
            Since::Unpacked(record) => Changes::Recorded(record),
            Since::Unknown => Changes::Content,
        }
    }
}

/// `changes.json`: what the new image has, has not, and has otherwise than its base.
#[derive(Debug, Serialize)]
struct ChangeList<'a> {
    version: &'static str,
    /// The root file system of the base, where it is known.
    base: Option<&'a Link>,
    #[serde(flatten)]
    diff: &'a Diff,
}

/// Compares the new image with the base, writes what differs to `path`, and gives it.
pub(super) fn write_changes(
    base: &Path,
    new: &Path,
    ranges: &[Range],
    link: Option<&Link>,
    path: &Path,
) -> anyhow::Result<Diff> {
    let diff = diff::diff(base, new, ranges).context("cannot compare the image with its base")?;
    tracing::info!(
        added = diff.added.len(),
        removed = diff.removed.len(),
        changed = diff.changed.len(),
        "compared with the base image"
    );
    let list = ChangeList { version: VERSION, base: link, diff: &diff };
    let json = serde_json::to_vec(&list).context("cannot write the change list as JSON")?;
    std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(diff)
}

/// The base's root file system as the records name it. A base that nobody knows any more costs an
/// upload and no more.
pub(super) async fn link(lookup: &Lookup) -> Option<Link> {
    let found = lookup.rootfs().await;
    if let Err(error) = &found {
        tracing::info!("cannot find the base image in the store: {error:#}");
    }
    found.ok().map(|artifact| artifact.link)
}

/// What of the new image the store has already, as parts of `base`.
pub(super) async fn in_store(
    store: &Store,
    base: &Link,
    ranges: &[Range],
    stop: &CancellationToken,
) -> Option<Reuse> {
    let object = base.path.parse().ok()?;
    let head = store.head(&object, stop).await.ok()?;
    let shared = |range: &Range| Shared { at: range.new, from: range.base, length: range.length };
    let ranges: Vec<Shared> = ranges.iter().map(shared).collect();
    // The object must hold the bytes that were fetched; the md5 of every copied part is the proof.
    let holds = ranges.iter().all(|range| range.from + range.length <= head.size);
    (holds && !ranges.is_empty()).then_some(Reuse { object, etag: head.etag, ranges })
}
