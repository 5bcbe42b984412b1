//! The objects of a record: moved to the trash, restored, or deleted.
//!
//! In the trash an object's key is `deleted/` and its old key. An image in the trash links to
//! `deleted/<id>/deleted_manifest.json`, which lists what was moved, the old manifest included.

use serde_json::{Value, json};

use super::manifest::{self, Artifact};
use super::problem::Result;
use crate::standalone::objects::Objects;
use crate::standalone::records::{Image, Link, PublicKey, Recipe, Record, Stamp};
use s3_client::Object;

const TRASH: &str = "deleted/";
/// Type of the entry that stands for the old manifest.
const MANIFEST: &str = "application/vnd.cray.image.manifest";

/// A record whose artifacts were copied elsewhere.
pub struct Moved<T> {
    /// With its link to the copies.
    pub record: T,
    /// To delete once the record is stored.
    pub originals: Vec<Object>,
}

impl<T> Moved<T> {
    fn unchanged(record: T) -> Self {
        Self { record, originals: Vec::new() }
    }
}

/// A record that may have objects.
pub trait Artifacts: Record {
    /// Copies the artifacts into the trash.
    fn bury(self, objects: &Objects) -> impl Future<Output = Result<Moved<Self>>> + Send;
    /// Copies them back out of it.
    fn revive(self, objects: &Objects) -> impl Future<Output = Result<Moved<Self>>> + Send;
    /// All there are, wherever they are.
    fn objects(&self, objects: &Objects) -> impl Future<Output = Result<Vec<Object>>> + Send;
}

impl Artifacts for PublicKey {
    async fn bury(self, _: &Objects) -> Result<Moved<Self>> {
        Ok(Moved::unchanged(self))
    }

    async fn revive(self, _: &Objects) -> Result<Moved<Self>> {
        Ok(Moved::unchanged(self))
    }

    async fn objects(&self, _: &Objects) -> Result<Vec<Object>> {
        Ok(Vec::new())
    }
}

impl Artifacts for Recipe {
    async fn bury(mut self, objects: &Objects) -> Result<Moved<Self>> {
        let Some(from) = self.link.as_ref().and_then(linked) else {
            return Ok(Moved::unchanged(self));
        };
        let to = buried(&from);
        let Some(etag) = objects.copy(&from, &to).await? else {
            return Ok(lost(self, &from));
        };
        self.link = Some(link(&to, etag));
        Ok(Moved { record: self, originals: vec![from] })
    }

    async fn revive(mut self, objects: &Objects) -> Result<Moved<Self>> {
        let from = self.link.as_ref().and_then(linked);
        let Some((from, to)) = from.and_then(|from| revived(&from).map(|to| (from, to))) else {
            return Ok(Moved::unchanged(self));
        };
        let Some(etag) = objects.copy(&from, &to).await? else {
            return Ok(lost(self, &from));
        };
        self.link = Some(link(&to, etag));
        Ok(Moved { record: self, originals: vec![from] })
    }

    async fn objects(&self, _: &Objects) -> Result<Vec<Object>> {
        Ok(self.link.as_ref().and_then(linked).into_iter().collect())
    }
}

impl Artifacts for Image {
    async fn bury(mut self, objects: &Objects) -> Result<Moved<Self>> {
        let Some((manifest, artifacts)) = listed(self.link.as_ref(), objects).await? else {
            return Ok(Moved::unchanged(self));
        };
        let mut entries = Vec::new();
        let mut originals = Vec::new();
        let manifest_entry = Artifact {
            object: manifest,
            md5: String::new(),
            kind: MANIFEST.to_owned(),
            entry: json!({ "type": MANIFEST }),
        };
        for artifact in artifacts.into_iter().chain([manifest_entry]) {
            let to = buried(&artifact.object);
            match objects.copy(&artifact.object, &to).await? {
                Some(etag) => {
                    let mut entry = artifact.entry;
                    entry["link"] = json!(link(&to, etag));
                    entries.push(entry);
                    originals.push(artifact.object);
                }
                None => tracing::warn!(object = %artifact.object, "an artifact is missing"),
            }
        }
        let list = json!({ "version": "1.0", "created": Stamp::now(), "artifacts": entries });
        let to = Object::new("boot-images", format!("{TRASH}{}/deleted_manifest.json", self.id));
        let etag = objects.write(&to, list.to_string().as_bytes()).await?;
        self.link = Some(link(&to, etag));
        Ok(Moved { record: self, originals })
    }

    async fn revive(mut self, objects: &Objects) -> Result<Moved<Self>> {
        let Some((list, artifacts)) = listed(self.link.as_ref(), objects).await? else {
            return Ok(Moved::unchanged(self));
        };
        let mut back = Vec::new();
        let mut manifest = None;
        let mut originals = vec![list];
        for artifact in artifacts {
            let Some(to) = revived(&artifact.object) else { continue };
            let Some(etag) = objects.copy(&artifact.object, &to).await? else {
                tracing::warn!(object = %artifact.object, "an artifact is missing in the trash");
                continue;
            };
            if artifact.kind == MANIFEST {
                manifest = Some((to, etag));
            } else {
                back.push((to, etag));
            }
            originals.push(artifact.object);
        }
        if let Some((at, etag)) = manifest {
            let etag = refresh(objects, &at, &back).await?.unwrap_or(etag);
            self.link = Some(link(&at, etag));
        }
        Ok(Moved { record: self, originals })
    }

    async fn objects(&self, objects: &Objects) -> Result<Vec<Object>> {
        let Some((manifest, artifacts)) = listed(self.link.as_ref(), objects).await? else {
            return Ok(self.link.as_ref().and_then(linked).into_iter().collect());
        };
        Ok(artifacts.into_iter().map(|artifact| artifact.object).chain([manifest]).collect())
    }
}

/// The manifest of an image and what it lists; `None` if there is none that can be read.
///
/// A record must be deletable even if its manifest is missing or damaged.
async fn listed(link: Option<&Link>, objects: &Objects) -> Result<Option<(Object, Vec<Artifact>)>> {
    let Some((link, at)) = link.and_then(|link| linked(link).map(|at| (link, at))) else {
        return Ok(None);
    };
    match manifest::read(objects, link).await.and_then(|found| manifest::artifacts(&found)) {
        Ok(artifacts) => Ok(Some((at, artifacts))),
        Err(problem) if problem.status() < 500 => {
            tracing::warn!(manifest = %at, "an image's manifest is missing or malformed");
            Ok(None)
        }
        Err(problem) => Err(problem),
    }
}

/// Rewrites a manifest if the store gave its artifacts other etags on the way; its new etag then.
async fn refresh(
    objects: &Objects,
    at: &Object,
    artifacts: &[(Object, String)],
) -> Result<Option<String>> {
    let Some(bytes) = objects.read(at, manifest::MAX_BYTES).await? else { return Ok(None) };
    let Ok(mut manifest) = serde_json::from_slice::<Value>(&bytes) else { return Ok(None) };
    let mut changed = false;
    let entries = manifest.get_mut("artifacts").and_then(Value::as_array_mut);
    for entry in entries.into_iter().flatten() {
        let path = entry["link"]["path"].as_str();
        let found = artifacts.iter().find(|(object, _)| path == Some(&object.to_string()));
        if let Some((_, etag)) = found
            && entry["link"]["etag"] != json!(etag)
        {
            entry["link"]["etag"] = json!(etag);
            changed = true;
        }
    }
    if !changed {
        return Ok(None);
    }
    Ok(Some(objects.write(at, manifest.to_string().as_bytes()).await?))
}

fn linked(link: &Link) -> Option<Object> {
    link.path.parse().ok()
}

fn link(to: &Object, etag: String) -> Link {
    Link { path: to.to_string(), etag, kind: "s3".to_owned() }
}

fn buried(object: &Object) -> Object {
    Object::new(&object.bucket, format!("{TRASH}{}", object.key))
}

fn revived(object: &Object) -> Option<Object> {
    let key = object.key.strip_prefix(TRASH)?;
    Some(Object::new(&object.bucket, key))
}

fn lost<T>(record: T, object: &Object) -> Moved<T> {
    tracing::warn!(%object, "an artifact of a record is missing");
    Moved::unchanged(record)
}
