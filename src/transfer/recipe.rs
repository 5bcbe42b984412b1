//! Imports a recipe: checks the archive, creates the record, uploads, links, verifies; rolls
//! everything back if a step fails.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::archive::{self, Reader};
use super::backend::{Backend, RECIPES};
use super::digest::{self, Sums};
use super::source::{self, Compression, Source};
use super::{fetch, publications, verify};
use crate::publish::header_safe;
use crate::telemetry::chain;
use crate::telemetry::progress::{Meter, Unit};
use ims_client::Arch;
use ims_client::{self as ims, Collection, Link};
use net::{CLEAN_UP_LIMIT, Policy};
use s3_client::put::Options;
use s3_client::{self as s3, Object};

/// What is to be imported.
#[derive(Debug, Clone)]
pub struct Request {
    pub name: String,
    pub archive: PathBuf,
    /// `kiwi-ng` or `packer`.
    pub recipe_type: String,
    pub linux_distribution: String,
    pub arch: Arch,
    pub require_dkms: bool,
    pub template_dictionary: Vec<(String, String)>,
    pub force: bool,
}

/// A registered recipe.
#[derive(Debug)]
pub struct Imported {
    /// The record as it came.
    pub recipe: Value,
    pub existed: bool,
    pub notes: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Source(#[from] source::Error),
    #[error("{} is not a gzip-compressed tar archive, as required for recipes", .0.display())]
    NotATgz(PathBuf),
    #[error("{} is not a usable archive", path.display())]
    Archive { path: PathBuf, source: archive::Error },
    #[error("{}: the entry {name} is refused because it is outside the recipe's directory", path.display())]
    Traversal { path: PathBuf, name: String },
    #[error("cannot list the existing recipes")]
    List(#[source] ims::Error),
    #[error("cannot create the recipe record")]
    Create(#[source] ims::Error),
    #[error("cannot upload the archive; the record was removed again")]
    Upload(#[source] s3::Error),
    #[error("cannot link the archive to the record; both were removed again")]
    Link(#[source] ims::Error),
    #[error("cannot verify the recipe after it was registered; it was removed again")]
    Verify(#[source] verify::Error),
    #[error("the recipe differs from what was uploaded, so it was removed again: {0}")]
    Wrong(String),
    #[error("IMS returned a record without an id")]
    NoId,
}

/// Imports a recipe. Whatever fails, IMS and the store are as they were before.
pub async fn import(
    backend: &Backend,
    request: &Request,
    cancel: &CancellationToken,
) -> Result<Imported, Error> {
    let read = |source| Error::Read { path: request.archive.clone(), source };
    let notes = {
        let path = request.archive.clone();
        let checked = tokio::task::spawn_blocking(move || check(&path)).await;
        checked.map_err(|panic| read(io::Error::other(panic)))??
    };
    let sums = digest::of_path(&request.archive, cancel).await.map_err(read)?;
    let fields = fields(request);
    if !request.force
        && let Some(recipe) = find(backend, &fields, &sums, cancel).await?
    {
        return Ok(Imported { recipe, existed: true, notes });
    }
    let publication = publications::begin_or_warn(backend, cancel).await;
    let write_down = |id: Option<&str>| {
        let written = publication.as_ref().map(|it| it.recipe(&fields, id));
        if let Some(Err(error)) = written {
            tracing::warn!(
                "if this command is killed, it may leave records or objects behind: \
                {}",
                chain(&error)
            );
        }
    };
    write_down(None);
    let made = backend.ims.create_in(Collection::Recipes, fields.clone(), cancel).await;
    let made = made.map_err(Error::Create)?;
    let id = made.get("id").and_then(Value::as_str).ok_or(Error::NoId)?.to_owned();
    write_down(Some(&id));
    let uploaded = upload(backend, request, &id, cancel).await;
    if (uploaded.is_ok() || withdraw(backend, &id).await)
        && let Some(publication) = &publication
    {
        publication.recipe_is_done();
    }
    uploaded.map(|recipe| Imported { recipe, existed: false, notes })
}

async fn upload(
    backend: &Backend,
    request: &Request,
    id: &str,
    cancel: &CancellationToken,
) -> Result<Value, Error> {
    let object = Object::new(RECIPES, format!("recipes/{id}/recipe.tar.gz"));
    let file = File::open(&request.archive)
        .map_err(|source| Error::Read { path: request.archive.clone(), source })?;
    let meter = Meter::start("upload", Unit::Bytes, file.metadata().map_or(0, |it| it.len()));
    let metadata = BTreeMap::from([
        ("x-shasta-ims-recipe-name".to_owned(), header_safe(&request.name)),
        ("x-shasta-ims-recipe-id".to_owned(), header_safe(id)),
    ]);
    let options = Options { metadata, ..Options::default() };
    let uploaded = backend.store.put_file(&object, file, &options, &meter, cancel).await;
    let uploaded = uploaded.map_err(Error::Upload)?;
    meter.finish();
    let link = Link::s3(object.to_string(), uploaded.etag);
    let linked = backend.ims.set_link(Collection::Recipes, id, &link, cancel).await;
    let recipe = linked.map_err(Error::Link)?;
    let report = verify::recipe(backend, id, cancel).await.map_err(Error::Verify)?;
    if !report.is_good() {
        return Err(Error::Wrong(report.all_problems().join("; ")));
    }
    Ok(recipe)
}

/// Removes record and archive; true if nothing is left. What could not be removed is in the log.
pub async fn withdraw(backend: &Backend, id: &str) -> bool {
    let never = CancellationToken::new();
    let ims = backend.ims.with_policy(Policy::CLEAN_UP);
    let deleted = ims.delete(Collection::Recipes, id, &never);
    let deleted = tokio::time::timeout(CLEAN_UP_LIMIT, deleted).await;
    if let Err(error) = deleted.unwrap_or(Err(ims::Error::Cancelled)) {
        tracing::error!(id, error = %chain(&error), "cannot roll back the recipe record, delete \
            it by hand");
        return false;
    }
    let store = backend.store.with_policy(Policy::CLEAN_UP);
    let prefix = format!("recipes/{id}/");
    let deleted = store.delete_prefix_settled(RECIPES, &prefix, &never);
    let deleted = tokio::time::timeout(CLEAN_UP_LIMIT, deleted).await;
    match deleted.unwrap_or(Err(s3::Error::Cancelled)) {
        Ok(objects) => {
            tracing::info!(recipe = id, objects, "rolled back");
            true
        }
        Err(error) => {
            tracing::error!(
                objects = format!("s3://{RECIPES}/{prefix}"),
                error = %chain(&error),
                "cannot roll back all objects, delete them by hand"
            );
            false
        }
    }
}

fn fields(request: &Request) -> Value {
    let pairs = request.template_dictionary.iter();
    let dictionary: Vec<Value> =
        pairs.map(|(key, value)| json!({ "key": key, "value": value })).collect();
    json!({
        "name": request.name,
        "recipe_type": request.recipe_type,
        "linux_distribution": request.linux_distribution,
        "arch": request.arch,
        "require_dkms": request.require_dkms,
        "template_dictionary": dictionary,
    })
}

/// The recipe that is there with the same fields and an archive of the same bytes.
async fn find(
    backend: &Backend,
    fields: &Value,
    sums: &Sums,
    cancel: &CancellationToken,
) -> Result<Option<Value>, Error> {
    let records = backend.ims.list(Collection::Recipes, cancel).await.map_err(Error::List)?;
    let wanted = fields.as_object().expect("made as an object");
    for record in records {
        let same = wanted.iter().all(|(key, value)| record.get(key) == Some(value));
        let path = record["link"]["path"].as_str().and_then(|path| path.parse::<Object>().ok());
        let Some(object) = path.filter(|_| same) else { continue };
        let Ok(head) = backend.store.head(&object, cancel).await else { continue };
        if head.size == sums.size && fetch::expected_md5("", &head).as_ref() == Some(&sums.md5) {
            return Ok(Some(record));
        }
    }
    Ok(None)
}

/// Reads the archive to its end; notes what a kiwi recipe should have.
fn check(path: &Path) -> Result<Vec<String>, Error> {
    let Source::Archive(_, compression @ Compression::Gzip) = Source::detect(path)? else {
        return Err(Error::NotATgz(path.to_owned()));
    };
    let read = |source| Error::Read { path: path.to_owned(), source };
    let input = File::open(path).and_then(|file| source::decompressed(compression, file));
    let mut reader = Reader::new(input.map_err(read)?);
    let mut has_config = false;
    loop {
        let entry = reader
            .next_entry()
            .map_err(|source| Error::Archive { path: path.to_owned(), source })?;
        let Some(entry) = entry else { break };
        let mut parts = entry.path.split(|byte| *byte == b'/');
        if entry.path.starts_with(b"/") || parts.any(|part| part == b"..") {
            let name = entry.path.escape_ascii().to_string();
            return Err(Error::Traversal { path: path.to_owned(), name });
        }
        let name = entry.path.strip_prefix(b"./").unwrap_or(&entry.path);
        has_config |= name == b"config.xml" || name.ends_with(b".kiwi");
    }
    Ok(match has_config {
        true => Vec::new(),
        false => vec!["the archive contains no config.xml: kiwi cannot build it".to_owned()],
    })
}
