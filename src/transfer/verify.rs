//! Checks that a record's artifacts are in the store as in the record and its manifest, without a
//! download.

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, ManifestError};
use crate::publish::manifest::Artifact;
use crate::telemetry::chain;
use ims_client::{self as ims, Collection, Link};
use s3_client::{self as s3, Head, Object};

/// What was found about one record.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub id: String,
    pub name: String,
    /// What is wrong with record and manifest, one sentence each.
    pub problems: Vec<String>,
    pub artifacts: Vec<Checked>,
}

/// What was found about one object.
#[derive(Debug, Clone, Serialize)]
pub struct Checked {
    #[serde(rename = "type")]
    pub media_type: String,
    pub path: String,
    /// Bytes, as the store has it; none if it is not there.
    pub size: Option<u64>,
    pub etag: Option<String>,
    /// Hex, from the object's metadata.
    pub md5: Option<String>,
    pub problems: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot look up the record")]
    Ims(#[from] ims::Error),
    #[error("{1} has no record {0}")]
    NoRecord(String, &'static str),
    #[error("IMS returned an invalid record")]
    Record(#[from] serde_json::Error),
    #[error("cannot look up an artifact")]
    Store(#[source] Box<s3::Error>),
}

/// Boxed: it is larger than all the others.
impl From<s3::Error> for Error {
    fn from(error: s3::Error) -> Self {
        Self::Store(error.into())
    }
}

impl Report {
    pub fn is_good(&self) -> bool {
        self.problems.is_empty() && self.artifacts.iter().all(|it| it.problems.is_empty())
    }

    /// Every problem with what it is about.
    pub fn all_problems(&self) -> Vec<String> {
        let of = |it: &Checked| {
            it.problems.iter().map(|problem| format!("{}: {problem}", it.path)).collect::<Vec<_>>()
        };
        self.problems.iter().cloned().chain(self.artifacts.iter().flat_map(of)).collect()
    }
}

/// Checks record, manifest and artifacts of an image.
pub async fn image(
    backend: &Backend,
    id: &str,
    cancel: &CancellationToken,
) -> Result<Report, Error> {
    let image: ims::Image =
        serde_json::from_value(record(backend, Collection::Images, id, cancel).await?)?;
    let mut report = Report::new(image.id, image.name);
    let Some(link) = image.link else {
        report.problems.push("the record has no link: the image is not complete".into());
        return Ok(report);
    };
    let manifest = match backend.manifest(&link.path, cancel).await {
        Ok(read) => read,
        Err(ManifestError::Read { source, .. }) if !source.is_not_found() => {
            return Err((*source).into());
        }
        Err(error) => {
            report.problems.push(chain(&error));
            return Ok(report);
        }
    };
    if differ(&link.etag, &manifest.head.etag) {
        let found = &manifest.head.etag;
        report.problems.push(format!(
            "the record links to the manifest with etag {}, the store has {found}",
            link.etag
        ));
    }
    if let Err(error) = manifest.manifest.rootfs() {
        report.problems.push(format!("the manifest is not valid for an image: {error}"));
    }
    for artifact in &manifest.manifest.artifacts {
        report.artifacts.push(check(backend, artifact, cancel).await?);
    }
    Ok(report)
}

/// Checks record and archive of a recipe.
pub async fn recipe(
    backend: &Backend,
    id: &str,
    cancel: &CancellationToken,
) -> Result<Report, Error> {
    let recipe: ims::Recipe =
        serde_json::from_value(record(backend, Collection::Recipes, id, cancel).await?)?;
    let mut report = Report::new(recipe.id, recipe.name);
    match recipe.link {
        None => report.problems.push("the record has no link: the recipe has no archive".into()),
        Some(link) => {
            let media_type = "application/x-compressed-tar".to_owned();
            let archive = Artifact { link, media_type, md5: String::new() };
            report.artifacts.push(check(backend, &archive, cancel).await?);
        }
    }
    Ok(report)
}

/// A record as it came.
pub async fn record(
    backend: &Backend,
    collection: Collection,
    id: &str,
    cancel: &CancellationToken,
) -> Result<serde_json::Value, Error> {
    let found = backend.ims.find(collection, id, cancel).await?;
    found.ok_or_else(|| Error::NoRecord(id.to_owned(), collection.path()))
}

/// Compares an object with its expected properties.
pub async fn check(
    backend: &Backend,
    artifact: &Artifact,
    cancel: &CancellationToken,
) -> Result<Checked, Error> {
    let Artifact { link, media_type, md5 } = artifact;
    let mut checked = Checked {
        media_type: media_type.clone(),
        path: link.path.clone(),
        size: None,
        etag: None,
        md5: None,
        problems: Vec::new(),
    };
    let object: Object = match link.path.parse() {
        Ok(object) => object,
        Err(error) => {
            checked.problems.push(format!("{error}"));
            return Ok(checked);
        }
    };
    match backend.store.head(&object, cancel).await {
        Err(error) if error.is_not_found() => {
            checked.problems.push("it is not in the store".into())
        }
        Err(error) => return Err(error.into()),
        Ok(head) => compare(&mut checked, link, md5, head),
    }
    Ok(checked)
}

fn compare(checked: &mut Checked, link: &Link, md5: &str, head: Head) {
    if differ(&link.etag, &head.etag) {
        let problem = format!("its etag is {}, not {}", head.etag, link.etag);
        checked.problems.push(problem);
    }
    let of_object = head.metadata.get("md5sum").cloned();
    if let Some(found) = of_object.as_deref().filter(|found| differ(md5, found)) {
        checked.problems.push(format!("its md5 is {found}, not {md5}"));
    }
    // The etag of a single put is the md5 of the current content, regardless of the metadata.
    if !head.etag.contains('-') && head.etag.len() == 32 && differ(md5, &head.etag) {
        checked.problems.push(format!("its content has md5 {}, not {md5}", head.etag));
    }
    if head.size == 0 {
        checked.problems.push("it is empty".into());
    }
    (checked.size, checked.etag, checked.md5) = (Some(head.size), Some(head.etag), of_object);
}

/// An unknown value never differs.
fn differ(said: &str, found: &str) -> bool {
    !said.is_empty() && !said.eq_ignore_ascii_case(found)
}

impl Report {
    /// Of a record that is not there.
    pub fn missing(id: &str, error: &Error) -> Self {
        let problems = vec![error.to_string()];
        Self { problems, ..Self::new(id.to_owned(), String::new()) }
    }

    fn new(id: String, name: String) -> Self {
        Self { id, name, problems: Vec::new(), artifacts: Vec::new() }
    }
}
