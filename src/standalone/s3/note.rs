//! The note at the end of a blob file: a copy of its index entry.
//!
//! Without notes, the loss of the index would be the loss of every object. So each object and each
//! part has its own blob that ends in its note: the blob of its bytes, or one without bytes if the
//! bytes are in other blobs (a completed upload, a copy). `rebuild` reads the notes.
//!
//! ```text
//! bytes | note as JSON | its length (u32 LE) | its MD5 | "ims-note"
//! ```

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::model::{Object, Part, Segment, Upload};

const MAGIC: &[u8; 8] = b"ims-note";
const FOOTER: usize = 4 + 16 + MAGIC.len();
/// An object of 10,000 parts has a note of less than 2 MiB.
const LIMIT: u64 = 8 << 20;

/// An entry of the index, and the blob that says it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Note {
    /// The file's own name: so bytes of a client that look like a note are not accepted as one.
    blob: Uuid,
    pub entry: Entry,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    Object { bucket: String, key: String, object: Object },
    Part { upload_id: String, upload: Upload, number: u32, part: Part },
}

/// The blob that says what an object or a part is: the last of its segments.
pub fn own(segments: &[Segment]) -> Option<Uuid> {
    segments.last().map(|segment| segment.blob)
}

/// `segments` of bytes, and `blob` as the one that says what they are.
pub fn noted(mut segments: Vec<Segment>, blob: Uuid) -> Vec<Segment> {
    segments.retain(|segment| segment.len > 0);
    segments.push(Segment { blob, offset: 0, len: 0 });
    segments
}

/// Writes the note of `blob` behind its bytes.
pub fn append(file: &mut File, blob: Uuid, entry: Entry) -> io::Result<()> {
    let json = serde_json::to_vec(&Note { blob, entry })?;
    let length = u32::try_from(json.len()).ok().filter(|length| u64::from(*length) <= LIMIT);
    let length = length.ok_or_else(|| io::Error::other("the object has too many parts"))?;
    let mut text = json;
    let digest = Md5::digest(&text);
    text.extend_from_slice(&length.to_le_bytes());
    text.extend_from_slice(&digest);
    text.extend_from_slice(MAGIC);
    file.write_all(&text)
}

/// The note of the blob in `path`, and how many bytes come before it. `None` if it has none: an older
/// version wrote it, or what it said is no more so.
pub fn read(path: &Path, blob: Uuid) -> io::Result<(u64, Option<Entry>)> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let plain = Ok((size, None));
    let Some(at) = size.checked_sub(FOOTER as u64) else { return plain };
    let mut footer = [0; FOOTER];
    file.read_exact_at(&mut footer, at)?;
    let (length, rest) = footer.split_at(4);
    let (digest, magic) = rest.split_at(16);
    let length = length.try_into().map_or(0, |bytes| u64::from(u32::from_le_bytes(bytes)));
    if magic != MAGIC || length > LIMIT || length > at {
        return plain;
    }
    let mut json = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut json, at - length)?;
    if Md5::digest(&json).as_slice() != digest {
        return plain;
    }
    match serde_json::from_slice::<Note>(&json) {
        Ok(note) if note.blob == blob => Ok((at - length, Some(note.entry))),
        _ => plain,
    }
}

/// Takes the note from a blob whose bytes others still use.
pub fn strip(path: &Path, blob: Uuid) -> io::Result<()> {
    let (bytes, entry) = read(path, blob)?;
    if entry.is_some() {
        File::options().write(true).open(path)?.set_len(bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standalone::s3::model::Attributes;

    fn entry(blob: Uuid) -> Entry {
        let object = Object {
            segments: vec![Segment { blob, offset: 0, len: 5 }],
            size: 5,
            etag: "e".into(),
            modified: 1,
            attributes: Attributes::default(),
        };
        Entry::Object { bucket: "b".into(), key: "k".into(), object }
    }

    #[test]
    fn a_note_is_read_back_and_stripped_and_a_foreign_one_is_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("blob");
        let blob = Uuid::new_v4();
        let mut file = File::create(&path).unwrap();
        file.write_all(b"bytes").unwrap();
        // What a client uploaded: the end of another blob.
        append(&mut file, Uuid::new_v4(), entry(blob)).unwrap();
        let all = std::fs::read(&path).unwrap();
        assert!(matches!(read(&path, blob).unwrap(), (n, None) if n == all.len() as u64));
        strip(&path, blob).unwrap();
        append(&mut file, blob, entry(blob)).unwrap();
        let (bytes, found) = read(&path, blob).unwrap();
        assert_eq!(bytes, all.len() as u64);
        assert!(matches!(found, Some(Entry::Object { key, .. }) if key == "k"));
        strip(&path, blob).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), all);
        for length in 0..all.len() {
            std::fs::write(&path, &all[..length]).unwrap();
            assert!(read(&path, blob).unwrap().1.is_none());
        }
    }
}
