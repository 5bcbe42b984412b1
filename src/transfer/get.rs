//! Downloads an image or a recipe to a directory: every artifact, verified; existing correct files
//! are kept.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, ManifestError};
use super::fetch::{self, Wanted, fetch};
use super::verify::{self, record};
use crate::telemetry::progress::{Meter, Unit};
use ims_client::{Collection, Image, Recipe};
use s3_client::{self as s3, BadPath, Object};

/// One file of the directory.
#[derive(Debug, Clone, Serialize)]
pub struct File {
    pub path: PathBuf,
    pub size: u64,
    pub md5: String,
    /// The file existed before.
    #[serde(rename = "was_there")]
    pub existed: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Record(#[from] verify::Error),
    #[error("record {0} has no link, so it has no artifacts")]
    NoLink(String),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("an artifact has no valid path")]
    Path(#[from] BadPath),
    #[error("the artifact name {0:?} is not a valid file name")]
    Name(String),
    #[error("cannot use the directory {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    #[error("cannot look up the history of the image")]
    History(#[source] Box<s3::Error>),
}

/// Fetches manifest and artifacts of an image; with its history, if it is wanted and there.
pub async fn image(
    backend: &Backend,
    id: &str,
    dir: &Path,
    include_history: bool,
    cancel: &CancellationToken,
) -> Result<Vec<File>, Error> {
    let image: Image =
        serde_json::from_value(record(backend, Collection::Images, id, cancel).await?)
            .map_err(verify::Error::Record)?;
    let link = image.link.ok_or_else(|| Error::NoLink(id.to_owned()))?;
    let manifest = backend.manifest(&link.path, cancel).await?;
    make(dir)?;
    let mut names = Names::default();
    let path = dir.join(names.of(&manifest.object)?);
    fetch::write(&path, &manifest.bytes)?;
    let mut wanted = Vec::new();
    for artifact in &manifest.manifest.artifacts {
        let object: Object = artifact.link.path.parse()?;
        let path = dir.join(names.of(&object)?);
        wanted.push((Wanted { object, md5: artifact.md5.clone() }, path));
    }
    if include_history {
        let history = backend.history(id, &manifest.object, cancel).await;
        let history = history.map_err(|source| Error::History(source.into()))?;
        for (object, _) in history {
            let path = dir.join(names.of(&object)?);
            wanted.push((Wanted { object, md5: String::new() }, path));
        }
    }
    all(backend, wanted, cancel).await
}

/// Fetches the archive of a recipe.
pub async fn recipe(
    backend: &Backend,
    id: &str,
    dir: &Path,
    cancel: &CancellationToken,
) -> Result<Vec<File>, Error> {
    let recipe: Recipe =
        serde_json::from_value(record(backend, Collection::Recipes, id, cancel).await?)
            .map_err(verify::Error::Record)?;
    let link = recipe.link.ok_or_else(|| Error::NoLink(id.to_owned()))?;
    let object: Object = link.path.parse()?;
    make(dir)?;
    let path = dir.join(Names::default().of(&object)?);
    all(backend, vec![(Wanted { object, md5: String::new() }, path)], cancel).await
}

async fn all(
    backend: &Backend,
    wanted: Vec<(Wanted, PathBuf)>,
    cancel: &CancellationToken,
) -> Result<Vec<File>, Error> {
    let mut total = 0;
    for (wanted, _) in &wanted {
        let head = backend.store.head(&wanted.object, cancel).await;
        let object = wanted.object.clone();
        total += head.map_err(|source| fetch::Error::Head { object, source: source.into() })?.size;
    }
    let meter = Meter::start("fetch", Unit::Bytes, total);
    let mut files = Vec::new();
    for (wanted, path) in wanted {
        let fetched = fetch(&backend.store, &wanted, &path, &meter, cancel).await?;
        let (size, md5) = (fetched.sums.size, fetched.sums.md5);
        files.push(File { path, size, md5, existed: fetched.existed });
    }
    meter.finish();
    Ok(files)
}

fn make(dir: &Path) -> Result<(), Error> {
    let made = std::fs::create_dir_all(dir);
    made.map_err(|source| Error::Directory { path: dir.to_owned(), source })
}

/// File names of objects: the last part of the key, made unique where two are the same.
#[derive(Debug, Default)]
pub struct Names {
    taken: HashSet<String>,
}

impl Names {
    pub fn of(&mut self, object: &Object) -> Result<String, Error> {
        let name = object.key.rsplit('/').next().unwrap_or_default();
        if matches!(name, "" | "." | "..") || name.contains('\0') {
            return Err(Error::Name(object.to_string()));
        }
        let mut free = name.to_owned();
        let mut number = 1;
        while !self.taken.insert(free.clone()) {
            number += 1;
            free = format!("{name}.{number}");
        }
        Ok(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_the_directory_and_differ() {
        let mut names = Names::default();
        let mut name = |key: &str| names.of(&Object::new("b", key)).ok();
        assert_eq!(name("1/rootfs").as_deref(), Some("rootfs"));
        assert_eq!(name("2/rootfs").as_deref(), Some("rootfs.2"));
        assert_eq!(name("x/.."), None);
        assert_eq!(name("x/"), None);
    }
}
