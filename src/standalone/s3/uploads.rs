//! Multipart uploads in the index.

use md5::{Digest, Md5};
use redb::{ReadableDatabase, ReadableTable};
use uuid::Uuid;

use super::index::{Change, Fault, Freed, Index, PARTS, Result, UPLOADS, decode, encode};
use super::model::{Object, Part, Upload, now};

/// S3's lower limit for every part but the last, in bytes.
const MIN_PART: u64 = 5 * 1024 * 1024;

impl Index {
    /// Starts an upload; returns its id.
    pub fn start_upload(&self, upload: &Upload) -> Result<String> {
        self.check_bucket(&upload.bucket)?;
        let id = Uuid::new_v4().simple().to_string();
        let txn = self.db.begin_write()?;
        txn.open_table(UPLOADS)?.insert(id.as_str(), encode(upload)?.as_slice())?;
        txn.commit()?;
        Ok(id)
    }

    /// The upload `id`, if it is one of `bucket` and `key`.
    pub fn upload(&self, at: (&str, &str), id: &str) -> Result<Upload> {
        let table = self.db.begin_read()?.open_table(UPLOADS)?;
        let value = table.get(id)?.map(|value| decode::<Upload>(value.value())).transpose()?;
        value
            .filter(|upload| (upload.bucket.as_str(), upload.key.as_str()) == at)
            .ok_or_else(|| Fault::NoSuchUpload(id.to_owned()))
    }

    /// Stores a part in place of an earlier one of the same number.
    ///
    /// `source`, for a part copied from an object, must still be as it was read.
    pub fn put_part(
        &self,
        (at, id): ((&str, &str), &str),
        number: u32,
        part: &Part,
        source: Option<((&str, &str), &Object)>,
    ) -> Result<Freed> {
        let mut change = self.change()?;
        change.upload(at, id)?;
        if let Some((at, object)) = source
            && change.object(at)?.as_ref() != Some(object)
        {
            return Err(Fault::Precondition);
        }
        change.retain(&part.segments)?;
        let old = {
            let mut parts = change.txn.open_table(PARTS)?;
            let old = parts.insert((id, number), encode(part)?.as_slice())?;
            old.map(|value| decode::<Part>(value.value())).transpose()?
        };
        if let Some(old) = old {
            change.release(&old.segments)?;
        }
        change.commit()
    }

    pub fn parts(&self, at: (&str, &str), id: &str) -> Result<Vec<(u32, Part)>> {
        self.upload(at, id)?;
        let table = self.db.begin_read()?.open_table(PARTS)?;
        let rows = table.range((id, 0)..=(id, u32::MAX))?;
        rows.map(|row| {
            let (at, value) = row?;
            Ok((at.value().1, decode(value.value())?))
        })
        .collect()
    }

    /// Uploads of a bucket in progress, by id.
    pub fn uploads(&self, bucket: &str) -> Result<Vec<(String, Upload)>> {
        self.check_bucket(bucket)?;
        let table = self.db.begin_read()?.open_table(UPLOADS)?;
        let mut found = Vec::new();
        for row in table.iter()? {
            let (id, value) = row?;
            let upload: Upload = decode(value.value())?;
            if upload.bucket == bucket {
                found.push((id.value().to_owned(), upload));
            }
        }
        found.sort_by(|a, b| (&a.1.key, &a.0).cmp(&(&b.1.key, &b.0)));
        Ok(found)
    }

    /// Creates the object of the listed parts (number and etag), and ends the upload.
    pub fn complete(
        &self,
        (at, id): ((&str, &str), &str),
        wanted: &[(u32, String)],
        allowed: impl FnOnce(Option<&Object>) -> bool,
        note: impl FnOnce(&mut Object) -> std::io::Result<()>,
    ) -> Result<(Object, Freed)> {
        let mut change = self.change()?;
        let upload = change.upload(at, id)?;
        let parts = change.take_parts(id)?;
        let mut object = assemble(upload, &parts, wanted)?;
        if !allowed(change.object(at)?.as_ref()) {
            return Err(Fault::Precondition);
        }
        note(&mut object).map_err(Fault::Disk)?;
        change.put(at, &object, |_| true)?;
        change.end_upload(id, parts)?;
        Ok((object, change.commit()?))
    }

    pub fn abort(&self, at: (&str, &str), id: &str) -> Result<Freed> {
        let mut change = self.change()?;
        change.upload(at, id)?;
        let parts = change.take_parts(id)?;
        change.end_upload(id, parts)?;
        change.commit()
    }
}

impl Change {
    fn upload(&self, at: (&str, &str), id: &str) -> Result<Upload> {
        let table = self.txn.open_table(UPLOADS)?;
        let value = table.get(id)?.map(|value| decode::<Upload>(value.value())).transpose()?;
        value
            .filter(|upload| (upload.bucket.as_str(), upload.key.as_str()) == at)
            .ok_or_else(|| Fault::NoSuchUpload(id.to_owned()))
    }

    fn take_parts(&mut self, id: &str) -> Result<Vec<(u32, Part)>> {
        let mut table = self.txn.open_table(PARTS)?;
        let mut parts = Vec::new();
        for row in table.extract_from_if((id, 0)..=(id, u32::MAX), |_, _| true)? {
            let (at, value) = row?;
            parts.push((at.value().1, decode(value.value())?));
        }
        Ok(parts)
    }

    fn end_upload(&mut self, id: &str, parts: Vec<(u32, Part)>) -> Result<()> {
        for (_, part) in &parts {
            self.release(&part.segments)?;
        }
        self.txn.open_table(UPLOADS)?.remove(id)?;
        Ok(())
    }
}

/// The object that the parts make; its etag is the MD5 of the parts' MD5s, `-`, their number.
fn assemble(upload: Upload, parts: &[(u32, Part)], wanted: &[(u32, String)]) -> Result<Object> {
    if !wanted.is_sorted_by(|(a, _), (b, _)| a < b) {
        return Err(Fault::PartOrder);
    }
    let mut segments = Vec::new();
    let mut size = 0;
    let mut digests = Md5::new();
    for (position, (number, etag)) in wanted.iter().enumerate() {
        let part = parts
            .iter()
            .find(|(found, part)| found == number && part.etag == *etag)
            .map(|(_, part)| part)
            .ok_or(Fault::InvalidPart(*number))?;
        if part.size < MIN_PART && position + 1 < wanted.len() {
            return Err(Fault::PartTooSmall(*number));
        }
        segments.extend(part.segments.iter().filter(|segment| segment.len > 0));
        size += part.size;
        digests.update(hex::decode(&part.etag).map_err(|_| Fault::InvalidPart(*number))?);
    }
    let etag = format!("{}-{}", hex::encode(digests.finalize()), wanted.len());
    Ok(Object { segments, size, etag, modified: now(), attributes: upload.attributes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standalone::s3::model::{Attributes, Segment};
    use crate::standalone::s3::note::noted;

    const AT: (&str, &str) = ("b", "k");

    fn index() -> (tempfile::TempDir, Index, String) {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index"), true).unwrap();
        index.create_bucket("b").unwrap();
        let upload = Upload {
            bucket: "b".into(),
            key: "k".into(),
            attributes: Attributes::default(),
            started: 0,
        };
        let id = index.start_upload(&upload).unwrap();
        (dir, index, id)
    }

    fn part(blob: u128, size: u64) -> Part {
        let segments = vec![Segment { blob: Uuid::from_u128(blob), offset: 0, len: size }];
        Part { segments, size, etag: hex::encode(Md5::digest(blob.to_le_bytes())), modified: 0 }
    }

    #[test]
    fn parts_that_are_replaced_left_out_or_aborted_are_freed() {
        let (_dir, index, id) = index();
        let put = |number, part: &Part| index.put_part((AT, &id), number, part, None).unwrap();
        put(1, &part(1, MIN_PART));
        assert_eq!(put(1, &part(2, MIN_PART)).blobs, [Uuid::from_u128(1)]);
        put(2, &part(3, 1));
        put(7, &part(4, 1));
        let wanted = [(1, part(2, 0).etag), (2, part(3, 0).etag)];
        let note = |object: &mut Object| {
            object.segments = noted(std::mem::take(&mut object.segments), Uuid::from_u128(5));
            Ok(())
        };
        let (object, freed) = index.complete((AT, &id), &wanted, |_| true, note).unwrap();
        assert_eq!(freed.blobs, [Uuid::from_u128(4)]);
        assert_eq!(freed.notes, [Uuid::from_u128(2), Uuid::from_u128(3)]);
        assert_eq!(object.size, MIN_PART + 1);
        assert!(object.etag.ends_with("-2"));
        assert!(matches!(index.abort(AT, &id), Err(Fault::NoSuchUpload(_))));
        assert_eq!(index.remove("b", &["k"]).unwrap().blobs.len(), 3);
    }

    #[test]
    fn wrong_part_lists_are_refused_and_change_nothing() {
        let (_dir, index, id) = index();
        index.put_part((AT, &id), 1, &part(1, 10), None).unwrap();
        index.put_part((AT, &id), 2, &part(2, 10), None).unwrap();
        let etag = |blob| part(blob, 0).etag;
        let complete =
            |wanted: &[(u32, String)]| index.complete((AT, &id), wanted, |_| true, |_| Ok(()));
        assert!(matches!(complete(&[(1, etag(1)), (2, etag(2))]), Err(Fault::PartTooSmall(1))));
        assert!(matches!(complete(&[(2, etag(2)), (1, etag(1))]), Err(Fault::PartOrder)));
        assert!(matches!(complete(&[(3, etag(1))]), Err(Fault::InvalidPart(3))));
        assert!(matches!(complete(&[(1, etag(2))]), Err(Fault::InvalidPart(1))));
        assert_eq!(index.parts(AT, &id).unwrap().len(), 2);
        assert_eq!(index.abort(AT, &id).unwrap().blobs.len(), 2);
    }
}
