//! Uploads the artifacts of one record, each checked against the data in the export. An existing
//! correct object is not uploaded again; an object that differs is replaced only with
//! `--overwrite`.

use std::collections::BTreeMap;
use std::io;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::super::layout::{HistoryFile, ImageFiles, MANIFEST_TYPE};
use super::supply::{self, Supply};
use crate::publish::header_safe;
use crate::publish::manifest::{self, Artifact, Manifest, SIZE_LIMIT};
use crate::telemetry::progress::Meter;
use crate::transfer::backend::{self, Backend};
use crate::transfer::digest;
use crate::transfer::fetch::expected_md5;
use crate::transfer::get::{self, Names};
use ims_client::Link;
use s3_client::put::Options;
use s3_client::{self as s3, BadPath, Object, etag};

const MIB: u64 = 1 << 20;
/// Part sizes with which other clients upload, in MiB; ours first.
const PART_SIZES: [u64; 10] = [8, 5, 16, 32, 64, 100, 128, 256, 512, 1024];
/// Most bytes of a single put.
const MAX_SINGLE: u64 = 5 << 30;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Supply(#[from] supply::Error),
    #[error("the path of an artifact is not valid")]
    Path(#[from] BadPath),
    #[error(transparent)]
    Name(#[from] get::Error),
    #[error("the manifest {path} of the export is not valid")]
    Manifest { path: String, source: manifest::Error },
    #[error("the manifest {path} of the export has {size} bytes; it must be smaller than 1 MiB")]
    ManifestSize { path: String, size: usize },
    #[error("the export contains no file for {0}")]
    NoFile(String),
    #[error("{path} has sha256 {found}, not {expected} as SHA256SUMS says")]
    Sum { path: String, found: String, expected: String },
    #[error("cannot read {path} of the export")]
    Read { path: String, source: io::Error },
    #[error("{object} already exists with other content; use --overwrite to replace it")]
    Conflict { object: Object },
    #[error(transparent)]
    Store(Box<s3::Error>),
}

/// Boxed: it is larger than all the others.
impl From<s3::Error> for Error {
    fn from(error: s3::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Where uploads go to, and how.
pub struct Upload<'a> {
    pub backend: &'a Backend,
    pub supply: &'a Supply,
    pub meter: &'a Meter,
    pub overwrite: bool,
    pub cancel: &'a CancellationToken,
    /// Id of the record.
    pub id: &'a str,
    pub name: &'a str,
    /// To the places that the export names, not to new ones under `id`.
    pub in_place: bool,
}

/// What the store holds afterwards.
#[derive(Debug)]
pub struct Sent {
    /// The manifest's or the archive's.
    pub link: Link,
    /// Old etags and new ones, where they differ.
    pub etags: BTreeMap<String, String>,
}

/// An artifact to be in the store.
struct Wanted<'a> {
    path: String,
    object: Object,
    /// Hex; empty if unknown.
    md5: &'a str,
    /// What it was in the store that was exported.
    etag: &'a str,
}

impl Upload<'_> {
    /// An image: every artifact, then a manifest with their paths and etags.
    pub async fn image(&self, files: &ImageFiles, link: &Link) -> Result<Sent, Error> {
        let (bytes, exported) = read_manifest(self.supply, &files.manifest_json).await?;
        let mut document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let before = document["artifacts"].clone();
        let mut names = Names::default();
        let mut wanted = Vec::new();
        for (index, artifact) in exported.artifacts.iter().enumerate() {
            // The old manifest of an image in the trash is created again.
            if artifact.media_type != MANIFEST_TYPE {
                let old: Object = artifact.link.path.parse()?;
                let path = local_path(files, index, artifact, exported.artifacts.len())?;
                let object = self.place(&old, &mut names)?;
                let (md5, etag) = (artifact.md5.as_str(), artifact.link.etag.as_str());
                wanted.push((index, Wanted { path, object, md5, etag }));
            }
        }
        let mut entries = Vec::new();
        let mut etags = BTreeMap::new();
        for (index, wanted) in &wanted {
            let etag = self.put(wanted).await?;
            note(&mut etags, wanted.etag, &etag);
            let mut entry = before[*index].clone();
            entry["link"]["path"] = wanted.object.to_string().into();
            entry["link"]["etag"] = etag.into();
            entries.push(entry);
        }
        let entries = Value::from(entries);
        let json = if entries == before {
            bytes
        } else {
            document["artifacts"] = entries;
            document.to_string().into_bytes()
        };
        let link = self.manifest(link, json, &mut names, &mut etags).await?;
        Ok(Sent { link, etags })
    }

    async fn manifest(
        &self,
        link: &Link,
        json: Vec<u8>,
        names: &mut Names,
        etags: &mut BTreeMap<String, String>,
    ) -> Result<Link, Error> {
        let old: Object = link.path.parse()?;
        let object = match (self.in_place, old.key.ends_with("/deleted_manifest.json")) {
            (false, true) => Object::new(&old.bucket, format!("{}/manifest.json", self.id)),
            _ => self.place(&old, names)?,
        };
        let there = match self.backend.store.get_bytes(&object, SIZE_LIMIT, self.cancel).await {
            Err(error) if error.is_not_found() => None,
            // Whatever else is there is no manifest that could stay.
            Err(s3::Error::Answer { .. }) => Some(Vec::new()),
            there => Some(there?),
        };
        let etag = match there {
            Some(bytes) if bytes == json => {
                self.backend.store.head(&object, self.cancel).await?.etag
            }
            Some(_) if !self.overwrite => return Err(Error::Conflict { object }),
            _ => {
                let options = self.options("");
                self.backend.store.put_bytes(&object, &json, &options, self.cancel).await?.etag
            }
        };
        note(etags, &link.etag, &etag);
        Ok(Link::s3(object.to_string(), etag))
    }

    /// The archive of a recipe; `sha256` is what the list of sums says.
    pub async fn recipe(
        &self,
        path: &str,
        sha256: Option<&String>,
        link: &Link,
    ) -> Result<Sent, Error> {
        if let Some(expected) = sha256 {
            self.compare(path, expected).await?;
        }
        let old: Object = link.path.parse()?;
        let object = match self.in_place {
            true => old,
            false => {
                let name = Names::default().of(&old)?;
                Object::new(old.bucket, format!("recipes/{}/{name}", self.id))
            }
        };
        let md5 = if link.etag.len() == 32 { link.etag.as_str() } else { "" };
        let path = path.to_owned();
        let wanted = Wanted { path, object, md5, etag: &link.etag };
        let etag = self.put(&wanted).await?;
        let mut etags = BTreeMap::new();
        note(&mut etags, &link.etag, &etag);
        Ok(Sent { link: Link::s3(wanted.object.to_string(), etag), etags })
    }

    /// The history of an image whose manifest is at `manifest`. What is there of it stays, unless it is to
    /// be replaced: two images of the same content may have come about in two ways.
    pub async fn history(&self, files: &ImageFiles, manifest: &Object) -> Result<(), Error> {
        for object in backend::history(self.id, manifest) {
            let is_same = |file: &&HistoryFile| object.key.rsplit('/').next() == Some(&file.name);
            let Some(HistoryFile { path, md5, .. }) = files.history.iter().find(is_same) else {
                continue;
            };
            match self.backend.store.head(&object, self.cancel).await {
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
                Ok(head) if !self.overwrite => {
                    self.meter.add(head.size);
                    self.supply.release(path);
                    continue;
                }
                Ok(_) => {}
            }
            self.put(&Wanted { path: path.clone(), object, md5, etag: "" }).await?;
        }
        Ok(())
    }

    async fn compare(&self, path: &str, expected: &String) -> Result<(), Error> {
        let file = self.supply.open(path).await?;
        let cancel = self.cancel.clone();
        let sums = tokio::task::spawn_blocking(move || digest::of(&file, &cancel)).await;
        let sums = sums.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        let found = sums.map_err(|source| Error::Read { path: path.to_owned(), source })?.sha256;
        if found == *expected {
            return Ok(());
        }
        Err(Error::Sum { path: path.to_owned(), found, expected: expected.clone() })
    }

    /// Ensures that the store has an artifact; returns its etag.
    async fn put(&self, wanted: &Wanted<'_>) -> Result<String, Error> {
        let Wanted { path, object, md5, etag } = wanted;
        match self.backend.store.head(object, self.cancel).await {
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
            Ok(head) => {
                let is_same =
                    expected_md5("", &head).is_some_and(|it| it.eq_ignore_ascii_case(md5));
                if is_same || (md5.is_empty() && head.etag == *etag) {
                    self.meter.add(head.size);
                    self.supply.release(path);
                    return Ok(head.etag);
                }
                if !self.overwrite {
                    return Err(Error::Conflict { object: object.clone() });
                }
            }
        }
        let file = self.supply.open(path).await?;
        let size = file.metadata().map_or(0, |data| data.len());
        let options = Options { part_size: part_size(size, etag), ..self.options(md5) };
        let put = self.backend.store.put_file(object, file, &options, self.meter, self.cancel);
        let uploaded = put.await?;
        self.supply.release(path);
        tracing::info!(%object, size = uploaded.size, "uploaded, verified");
        Ok(uploaded.etag)
    }

    /// Where an object goes that was at `old`.
    fn place(&self, old: &Object, names: &mut Names) -> Result<Object, Error> {
        if self.in_place {
            return Ok(old.clone());
        }
        Ok(Object::new(&old.bucket, format!("{}/{}", self.id, names.of(old)?)))
    }

    fn options(&self, md5: &str) -> Options {
        let metadata = BTreeMap::from([
            ("x-shasta-ims-image-name".to_owned(), header_safe(self.name)),
            ("x-shasta-ims-image-id".to_owned(), header_safe(self.id)),
        ]);
        let md5 = (md5.len() == 32).then(|| md5.to_owned());
        Options { metadata, md5, ..Options::default() }
    }
}

/// Makes sure that the export has every file of an image, before a record is created for it.
pub async fn check_image(supply: &Supply, files: &ImageFiles) -> Result<(), Error> {
    let (_, manifest) = read_manifest(supply, &files.manifest_json).await?;
    for (index, artifact) in manifest.artifacts.iter().enumerate() {
        let path = local_path(files, index, artifact, manifest.artifacts.len())?;
        supply.open(&path).await?;
    }
    Ok(())
}

/// The manifest as it was exported.
pub async fn read_manifest(supply: &Supply, path: &str) -> Result<(Vec<u8>, Manifest), Error> {
    let bytes = supply.document(path).await?.ok_or_else(|| Error::NoFile(path.to_owned()))?;
    if bytes.len() >= SIZE_LIMIT {
        return Err(Error::ManifestSize { path: path.to_owned(), size: bytes.len() });
    }
    let manifest = Manifest::read(&bytes);
    let manifest = manifest.map_err(|source| Error::Manifest { path: path.to_owned(), source })?;
    Ok((bytes, manifest))
}

/// The file of an artifact: the one at its place in the list, or by name if the list is another.
fn local_path(
    files: &ImageFiles,
    index: usize,
    artifact: &Artifact,
    count: usize,
) -> Result<String, Error> {
    if files.image_artifacts.len() == count {
        return Ok(files.image_artifacts[index].path.clone());
    }
    let name = artifact.link.path.rsplit('/').next();
    let mut paths = files.image_artifacts.iter().map(|file| &file.path);
    let found = paths.find(|path| path.rsplit('/').next() == name);
    found.cloned().ok_or_else(|| Error::NoFile(artifact.link.path.clone()))
}

/// Notes an etag that has changed.
pub fn note(etags: &mut BTreeMap<String, String>, old: &str, new: &str) {
    if !old.is_empty() && old != new {
        etags.insert(old.to_owned(), new.to_owned());
    }
}

/// The part size with which the object got that etag, so that it gets it again; ours if none fits.
fn part_size(size: u64, old_etag: &str) -> u64 {
    let default = etag::MIN_PART_SIZE;
    let Some((_, parts)) = old_etag.rsplit_once('-') else {
        let is_single = !old_etag.is_empty() && (default..MAX_SINGLE).contains(&size);
        return if is_single { size + 1 } else { default };
    };
    let fits = |part: &u64| size >= *part && parts.parse() == Ok(size.div_ceil(*part));
    PART_SIZES.into_iter().map(|mib| mib * MIB).find(fits).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_cut_as_they_were() {
        let size = 100 * MIB;
        assert_eq!(part_size(size, "x-13"), 8 * MIB);
        assert_eq!(part_size(size, "x-20"), 5 * MIB);
        assert_eq!(part_size(size, "x-2"), 64 * MIB);
        assert_eq!(part_size(size, "x-99"), 8 * MIB);
        assert_eq!(part_size(size, "single"), size + 1);
        assert_eq!(part_size(5, "single"), 8 * MIB);
        assert_eq!(part_size(size, ""), 8 * MIB);
    }
}
