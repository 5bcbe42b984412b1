//! The contents of an export: the records, and all their objects with their sizes.

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::layout::{self, Document, HistoryFile, ImageFile, ImageFiles, Part, RecipeFile};
use crate::telemetry::chain;
use crate::transfer::backend::{Backend, ManifestError};
use crate::transfer::fetch::{Wanted, expected_md5};
use crate::transfer::get::{self, Names};
use ims_client::{self as ims, Collection};
use s3_client::{self as s3, Object};

/// Objects that are looked up at once.
const LOOKUPS: usize = 8;

/// What is exported.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice {
    pub linked_artifacts: bool,
    pub deleted: bool,
}

/// A file of the export.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Relative to the export's directory.
    pub path: String,
    pub wanted: Wanted,
    /// Bytes.
    pub size: u64,
}

/// Everything that an export will hold.
#[derive(Debug, Default)]
pub struct Plan {
    pub documents: Vec<(Part, Document)>,
    pub files: Vec<Planned>,
    /// What belongs to a record and cannot be exported, a sentence each.
    pub problems: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot list the {what}")]
    List { what: &'static str, source: ims::Error },
    #[error("cannot look up an artifact")]
    Store(#[from] s3::Error),
    #[error("stopped")]
    Cancelled,
}

/// Looks at all records and at their objects.
pub async fn plan(
    backend: &Backend,
    choice: Choice,
    cancel: &CancellationToken,
) -> Result<Plan, Error> {
    let mut plan = Plan::default();
    for part in layout::parts(choice.deleted) {
        let listed = match part.deleted {
            true => backend.ims.list_deleted(part.collection, cancel).await,
            false => backend.ims.list(part.collection, cancel).await,
        };
        let records = listed.map_err(|source| Error::List { what: part.document(), source })?;
        let mut exported = Vec::new();
        for record in records {
            exported.push(plan.record(backend, choice, part, record, cancel).await?);
        }
        plan.documents.push((part, Document::new(exported)));
    }
    plan.sizes(backend, cancel).await?;
    Ok(plan)
}

impl Plan {
    /// Bytes of all artifacts.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    async fn record(
        &mut self,
        backend: &Backend,
        choice: Choice,
        part: Part,
        mut record: Value,
        cancel: &CancellationToken,
    ) -> Result<Value, Error> {
        if part.collection == Collection::PublicKeys {
            return Ok(record);
        }
        let Some(link) = layout::link(&record) else {
            record["link"] = layout::without_link();
            return Ok(record);
        };
        if !choice.linked_artifacts {
            return Ok(record);
        }
        let id = layout::text(&record, "id").to_owned();
        let files = match part.collection {
            _ if !layout::is_id(&id) => Err(format!("the id {id:?} is not a valid directory name")),
            Collection::Recipes => self.recipe(part, &id, &link.path).map_err(|it| chain(&it)),
            _ => match self.image(backend, part, &id, &link.path, cancel).await {
                Err(_) if cancel.is_cancelled() => return Err(Error::Cancelled),
                Err(ManifestError::Read { source, .. }) if !source.is_not_found() => {
                    return Err((*source).into());
                }
                files => files.map_err(|it| chain(&it)),
            },
        };
        match files {
            Ok(files) => record["linked_artifacts"] = files,
            Err(why) => self.problems.push(format!("{}: {why}", part.directory(&id))),
        }
        Ok(record)
    }

    fn recipe(&mut self, part: Part, id: &str, path: &str) -> Result<Value, get::Error> {
        let object: Object = path.parse()?;
        let name = Names::default().of(&object)?;
        let path = format!("{}/{name}", part.directory(id));
        self.file(path.clone(), object, String::new());
        Ok(json!(RecipeFile { recipe_archive: path }))
    }

    async fn image(
        &mut self,
        backend: &Backend,
        part: Part,
        id: &str,
        path: &str,
        cancel: &CancellationToken,
    ) -> Result<Value, ManifestError> {
        let manifest = backend.manifest(path, cancel).await?;
        let mut names = Names::default();
        let mut path =
            |object: &Object| Some(format!("{}/{}", part.directory(id), names.of(object).ok()?));
        let manifest_json = path(&manifest.object).unwrap_or_default();
        let object = manifest.object;
        self.file(manifest_json.clone(), object.clone(), String::new());
        let mut image_artifacts = Vec::new();
        for artifact in manifest.manifest.artifacts {
            let object = artifact.link.path.parse::<Object>().ok();
            let found = object.and_then(|object| path(&object).map(|path| (object, path)));
            let Some((object, path)) = found else {
                let bad = artifact.link.path;
                self.problems
                    .push(format!("{}: {bad:?} is not a valid file name", part.directory(id)));
                continue;
            };
            self.file(path.clone(), object, artifact.md5.clone());
            image_artifacts.push(ImageFile {
                md5: artifact.md5,
                media_type: artifact.media_type,
                path,
            });
        }
        let mut history = Vec::new();
        let found = backend.history(id, &object, cancel).await;
        let found =
            found.map_err(|source| ManifestError::Read { object, source: source.into() })?;
        for (object, head) in found {
            let Some(path) = path(&object) else { continue };
            let name = object.key.rsplit('/').next().unwrap_or_default().to_owned();
            let md5 = expected_md5("", &head).unwrap_or_default();
            history.push(HistoryFile { name, path: path.clone(), md5: md5.clone() });
            self.file(path, object, md5);
        }
        Ok(json!(ImageFiles { manifest_json, image_artifacts, history }))
    }

    fn file(&mut self, path: String, object: Object, md5: String) {
        self.files.push(Planned { path, wanted: Wanted { object, md5 }, size: 0 });
    }

    /// Looks up the size of every object; missing ones are left out and reported.
    async fn sizes(&mut self, backend: &Backend, cancel: &CancellationToken) -> Result<(), Error> {
        let files = std::mem::take(&mut self.files);
        let heads = stream::iter(files).map(|file| async {
            match backend.store.head(&file.wanted.object, cancel).await {
                Ok(head) => Ok((Planned { size: head.size, ..file }, true)),
                Err(error) if error.is_not_found() => Ok((file, false)),
                Err(_) if cancel.is_cancelled() => Err(Error::Cancelled),
                Err(error) => Err(Error::Store(error)),
            }
        });
        let heads: Vec<(Planned, bool)> = heads.buffered(LOOKUPS).try_collect().await?;
        for (file, is_there) in heads {
            if is_there {
                self.files.push(file);
            } else {
                let Planned { path, wanted, .. } = file;
                self.problems.push(format!("{path}: {} is not in the store", wanted.object));
            }
        }
        Ok(())
    }
}
