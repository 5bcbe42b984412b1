//! Rebuilds the object index from the notes in the blobs (`note`).
//!
//! Blobs of an older version have no notes: those that a record of IMS references are identified by
//! their MD5. The rest is kept under `lost+found/` in the bucket of images. Nothing is deleted.

mod legacy;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::Path;

use uuid::Uuid;

use super::blobs::Blobs;
use super::index::{Fault, Index};
use super::model::{Attributes, Object, Part, Segment, Upload, now};
use super::note::{self, Entry};
use super::{BUCKETS, Error, Places};
use crate::standalone::database;
use crate::telemetry::chain;

/// The bucket and the prefix of unknown objects.
const LOST_BUCKET: &str = BUCKETS[1];
const LOST_PREFIX: &str = "lost+found/";

/// An object that a record of IMS names.
#[derive(Debug, Clone)]
pub struct Hint {
    pub bucket: String,
    pub key: String,
    pub etag: String,
}

/// What a rebuild has found.
#[derive(Debug, Default)]
pub struct Report {
    /// Objects with all their metadata.
    pub objects: usize,
    /// Of unfinished uploads.
    pub parts: usize,
    /// Objects of an older version, known by a record; their metadata is lost.
    pub matched: usize,
    /// Under `lost+found/`.
    pub lost: usize,
    /// Objects whose bytes are not all there.
    pub broken: Vec<String>,
}

type At = (String, String);

/// What is known so far.
#[derive(Default)]
struct Found {
    /// Bytes of every blob, without its note.
    bytes: HashMap<Uuid, u64>,
    objects: BTreeMap<At, Object>,
    parts: BTreeMap<(String, u32), (Upload, Part)>,
}

/// Rebuilds `index.redb` in `dir`, while no standalone uses it. Blocking.
pub fn rebuild(dir: &Path, hints: Vec<Hint>) -> Result<Report, Error> {
    let directory = |source| Error::Directory { path: dir.into(), source };
    let places = Places::of(dir);
    let old = examine(&places)?;
    let blobs = Blobs::open(places.blobs.clone()).map_err(directory)?;
    let survey = blobs.survey().map_err(directory)?;
    let mut report = Report::default();
    let (mut found, silent) =
        read_notes(&blobs, survey.blobs.keys(), &mut report).map_err(directory)?;
    report.objects = found.objects.len();
    report.parts = found.parts.len();
    let known = legacy::matched(&blobs, &found, silent, hints).map_err(directory)?;
    report.matched = known.len();
    let nameless = found.adopt(&blobs, known).map_err(directory)?;
    report.lost = nameless;
    survey.remove_drafts().map_err(directory)?;
    let draft = places.index.with_extension("rebuilt");
    remove(&draft).map_err(directory)?;
    write(&draft, &found).map_err(|source| Error::Index { path: draft.clone(), source })?;
    if old {
        let aside = places.index.with_extension(format!("redb.old-{}", now()));
        std::fs::rename(&places.index, &aside).map_err(directory)?;
        tracing::info!(file = %aside.display(), "the old index is kept");
    }
    std::fs::rename(&draft, &places.index).map_err(directory)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(directory)?;
    Ok(report)
}

/// Whether there is an old index. One that can be read is not replaced: it knows more.
fn examine(places: &Places) -> Result<bool, Error> {
    match places.index.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(Error::Directory { path: places.index.clone(), source }),
        Ok(found) if found.len() == 0 => return Ok(true),
        Ok(_) => {}
    }
    let opened = Index::open(&places.index, true);
    match opened.map_err(Fault::from).and_then(|index| index.used()) {
        Ok(used) if used.is_empty() => Ok(true),
        Ok(used) => Err(Error::Readable { path: places.index.clone(), blobs: used.len() }),
        Err(Fault::Database(error @ database::Error::InUse { .. })) => Err(error.into()),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "the old index cannot be read");
            Ok(true)
        }
    }
}

/// What the blobs say, and those that say nothing.
fn read_notes<'b>(
    blobs: &Blobs,
    all: impl Iterator<Item = &'b Uuid>,
    report: &mut Report,
) -> io::Result<(Found, Vec<Uuid>)> {
    let mut found = Found::default();
    let (mut entries, mut silent) = (Vec::new(), Vec::new());
    for blob in all {
        let (bytes, entry) = note::read(&blobs.path(*blob), *blob)?;
        found.bytes.insert(*blob, bytes);
        match entry {
            Some(entry) => entries.push((*blob, entry)),
            None => silent.push(*blob),
        }
    }
    let mut parts = Vec::new();
    let mut broken = BTreeSet::new();
    for (blob, entry) in entries {
        match entry {
            Entry::Object { bucket, key, object } if found.has(&object.segments) => {
                let newer = |old: &Object| old.modified > object.modified;
                let at = (bucket, key);
                // A crash between a change and the removal of what it replaced leaves both.
                if !found.objects.get(&at).is_some_and(newer) {
                    found.objects.insert(at, object);
                }
            }
            Entry::Object { bucket, key, .. } => {
                broken.insert((bucket, key));
            }
            Entry::Part { upload_id, upload, number, part } if found.has(&part.segments) => {
                parts.push((blob, (upload_id, number), (upload, part)));
            }
            Entry::Part { upload, .. } => {
                broken.insert((upload.bucket, upload.key));
            }
        }
    }
    broken.retain(|at| !found.objects.contains_key(at));
    report.broken = broken.into_iter().map(|(bucket, key)| format!("{bucket}/{key}")).collect();
    // A part that became part of an object is no longer a part of an upload.
    let claimed = found.used();
    parts.retain(|(blob, ..)| !claimed.contains(blob));
    parts.sort_by_key(|(.., (_, part))| part.modified);
    found.parts = parts.into_iter().map(|(_, at, part)| (at, part)).collect();
    Ok((found, silent))
}

impl Found {
    /// Whether all these bytes are there.
    fn has(&self, segments: &[Segment]) -> bool {
        segments.iter().all(|segment| {
            let end = segment.offset.checked_add(segment.len);
            self.bytes.get(&segment.blob).is_some_and(|bytes| end.is_some_and(|end| end <= *bytes))
        })
    }

    fn used(&self) -> HashSet<Uuid> {
        let objects = self.objects.values().flat_map(|object| &object.segments);
        let parts = self.parts.values().flat_map(|(_, part)| &part.segments);
        objects.chain(parts).map(|segment| segment.blob).collect()
    }

    /// Takes up what records know, and the rest without a name. How many the latter are.
    fn adopt(&mut self, blobs: &Blobs, known: BTreeMap<At, Object>) -> io::Result<usize> {
        for ((bucket, key), mut object) in known {
            blobs.note(Uuid::new_v4(), (&bucket, &key), &mut object)?;
            self.objects.insert((bucket, key), object);
        }
        let used = self.used();
        let rest = self.bytes.iter().filter(|(blob, bytes)| **bytes > 0 && !used.contains(blob));
        let rest: Vec<(Uuid, u64)> = rest.map(|(blob, bytes)| (*blob, *bytes)).collect();
        for (blob, size) in &rest {
            let segments = vec![Segment { blob: *blob, offset: 0, len: *size }];
            let etag = super::receive::md5_of(blobs, &segments)?;
            let attributes = Attributes::default();
            let mut object = Object { segments, size: *size, etag, modified: now(), attributes };
            let key = format!("{LOST_PREFIX}{}", blob.simple());
            blobs.strip(*blob);
            blobs.note(Uuid::new_v4(), (LOST_BUCKET, &key), &mut object)?;
            self.objects.insert((LOST_BUCKET.into(), key), object);
        }
        Ok(rest.len())
    }
}

fn write(path: &Path, found: &Found) -> Result<(), Fault> {
    let index = Index::open(path, false)?;
    let objects = found
        .objects
        .iter()
        .map(|((bucket, key), object)| ((bucket.as_str(), key.as_str()), object));
    let parts = found
        .parts
        .iter()
        .map(|((id, number), (upload, part))| (id.as_str(), *number, upload, part));
    index.fill(&BUCKETS, objects, parts)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
