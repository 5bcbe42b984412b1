//! Blobs of an older version, which have no notes: records of IMS reference manifests, manifests
//! reference artifacts, by their etags.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::time::UNIX_EPOCH;

use md5::{Digest, Md5};
use uuid::Uuid;

use super::{At, Found, Hint};
use crate::publish::manifest::{Manifest, SIZE_LIMIT};
use crate::standalone::s3::blobs::Blobs;
use crate::standalone::s3::model::{Attributes, Object, Segment};
use crate::standalone::s3::receive::md5_of;
use s3_client::Object as Name;

/// A blob without a name.
struct Silent {
    blob: Uuid,
    size: u64,
    /// Microseconds since 1970.
    written: u64,
    md5: [u8; 16],
}

/// The objects that `hints`, and what they lead to, name among the blobs that say nothing.
pub(super) fn matched(
    blobs: &Blobs,
    found: &Found,
    silent: Vec<Uuid>,
    mut hints: Vec<Hint>,
) -> io::Result<BTreeMap<At, Object>> {
    let used = found.used();
    let mut all = Vec::new();
    for blob in silent.into_iter().filter(|blob| !used.contains(blob)) {
        let size = found.bytes.get(&blob).copied().unwrap_or(0);
        let modified = blobs.path(blob).metadata()?.modified()?;
        let written = modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        let segment = Segment { blob, offset: 0, len: size };
        let md5 = hex::decode(md5_of(blobs, &[segment])?).ok().and_then(|md5| md5.try_into().ok());
        let written = u64::try_from(written).unwrap_or(u64::MAX);
        all.push(Silent { blob, size, written, md5: md5.unwrap_or_default() });
    }
    // Parts of an upload follow each other.
    all.sort_by_key(|silent| silent.written);
    let whole: HashMap<String, usize> =
        all.iter().enumerate().map(|(at, silent)| (hex::encode(silent.md5), at)).collect();
    let mut known = BTreeMap::new();
    while let Some(hint) = hints.pop() {
        let at = (hint.bucket, hint.key);
        if found.objects.contains_key(&at) || known.contains_key(&at) {
            continue;
        }
        let parts = match whole.get(&hint.etag) {
            Some(one) => &all[*one..=*one],
            None => match in_parts(&all, &hint.etag) {
                Some(parts) => parts,
                None => continue,
            },
        };
        let object = object(parts, hint.etag);
        if object.size <= SIZE_LIMIT as u64 {
            hints.extend(named_in(blobs, &object.segments)?);
        }
        known.insert(at, object);
    }
    Ok(known)
}

/// The blobs, in the order in which they were written, that an upload in parts has made this etag of.
fn in_parts<'s>(all: &'s [Silent], etag: &str) -> Option<&'s [Silent]> {
    let (digest, count) = etag.split_once('-')?;
    let count: usize = count.parse().ok().filter(|count| *count > 0)?;
    all.windows(count).find(|parts| {
        let mut md5 = Md5::new();
        parts.iter().for_each(|part| md5.update(part.md5));
        hex::encode(md5.finalize()) == digest
    })
}

fn object(parts: &[Silent], etag: String) -> Object {
    let segment = |part: &Silent| Segment { blob: part.blob, offset: 0, len: part.size };
    Object {
        segments: parts.iter().map(segment).collect(),
        size: parts.iter().map(|part| part.size).sum(),
        etag,
        modified: parts.last().map_or(0, |part| part.written),
        attributes: Attributes::default(),
    }
}

/// The objects in a manifest; nothing if this is not a manifest.
fn named_in(blobs: &Blobs, segments: &[Segment]) -> io::Result<Vec<Hint>> {
    let mut json = Vec::new();
    for segment in segments {
        json.extend(std::fs::read(blobs.path(segment.blob))?);
    }
    let Ok(manifest) = Manifest::read(&json) else { return Ok(Vec::new()) };
    let hint = |artifact: crate::publish::manifest::Artifact| {
        let name: Name = artifact.link.path.parse().ok()?;
        let etag = if artifact.link.etag.is_empty() { artifact.md5 } else { artifact.link.etag };
        Some(Hint { bucket: name.bucket, key: name.key, etag })
    };
    Ok(manifest.artifacts.into_iter().filter_map(hint).collect())
}
