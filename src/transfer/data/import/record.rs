//! Imports one record of an export, depending on what the service already has of it (contract
//! section 9).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::super::layout::{self, MANIFEST_TYPE, Part};
use super::exported::{Exported, content};
use super::journal::Entry;
use super::upload::{self, Sent, Upload, check_image, note, read_manifest};
use super::{Error, Import};
use crate::publish;
use crate::telemetry::chain;
use crate::transfer::existing;
use crate::transfer::{recipe, verify};
use ims_client::{Collection, Link};
use s3_client::Object;

/// What was done about a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is there with all that belongs to it.
    Present,
    /// It was created, with a new id.
    Created,
    /// It was there, and got what was missing.
    Restored,
    /// It was restored from the trash with its old id.
    Undeleted,
}

/// A record that is there now.
#[derive(Debug)]
pub struct Done {
    pub action: Action,
    pub id: String,
    /// Old etags and new ones, where they differ.
    pub etags: BTreeMap<String, String>,
    /// A remaining problem.
    pub problem: Option<String>,
}

impl Done {
    fn new(action: Action, id: &str) -> Self {
        Self { action, id: id.to_owned(), etags: BTreeMap::new(), problem: None }
    }
}

impl Import<'_> {
    /// Does what a record needs.
    pub(super) async fn record(&self, it: &Exported<'_>) -> Result<Done, Error> {
        if !layout::is_id(it.id) {
            return Err(Error::Id(it.id.to_owned()));
        }
        let done = self.decide(it).await?;
        match self.history(it, &done.id).await {
            Err(error) if self.cancel.is_cancelled() => Err(error.into()),
            // The image is whole without.
            Err(error) => Ok(Done { problem: Some(chain(&error)), ..done }),
            Ok(()) => Ok(done),
        }
    }

    async fn history(&self, it: &Exported<'_>, id: &str) -> Result<(), upload::Error> {
        let (Some(link), Collection::Images, false) =
            (&it.link, it.part.collection, self.options.dry_run)
        else {
            return Ok(());
        };
        let old: Object = link.path.parse()?;
        let manifest = match id == it.id {
            true => old,
            false => Object::new(&old.bucket, format!("{id}/manifest.json")),
        };
        let upload = self.uploading(it, id, self.options.overwrite);
        upload.history(&it.image_files(link), &manifest).await
    }

    async fn decide(&self, it: &Exported<'_>) -> Result<Done, Error> {
        if self.has(it.part, it.id) || (it.part.deleted && self.is_live(it.part, it.id)) {
            return self.complete(it, it.id, Action::Restored).await;
        }
        if let Some(done) = self.begun(it).await? {
            return Ok(done);
        }
        if let Some(id) = self.same(it).await? {
            let etags = self.etags(it, &id).await?;
            return Ok(Done { etags, ..Done::new(Action::Present, &id) });
        }
        if self.options.keep_ids {
            return self.undelete(it).await;
        }
        self.create(it).await
    }

    /// Resumes what an earlier run began.
    async fn begun(&self, it: &Exported<'_>) -> Result<Option<Done>, Error> {
        let Some(entry) = self.journal.get(&it.key()) else { return Ok(None) };
        let id = match entry.id {
            Some(id) if self.has(it.part, &id) || self.is_live(it.part, &id) => id,
            _ if self.options.dry_run => return Ok(None),
            Some(_) => {
                self.journal.remove(&it.key())?;
                return Ok(None);
            }
            None => {
                let fields = &entry.fields;
                let made =
                    self.backend.ims.made_in(it.part.collection, fields, entry.begun).await?;
                let ids = made.iter().map(|record| layout::text(record, "id").to_owned());
                let free: Vec<String> = ids.filter(|id| !self.is_claimed(id)).collect();
                // More than were requested: one belongs to another client, and we cannot tell
                // which.
                let ours = free.len() <= self.journal.in_doubt(fields);
                let Some(id) = free.into_iter().find(|id| ours && self.claim(id)) else {
                    self.journal.remove(&it.key())?;
                    return Ok(None);
                };
                self.journal.set(&it.key(), Entry { id: Some(id.clone()), ..entry })?;
                id
            }
        };
        tracing::info!(old = it.id, id, "resuming the import of a record");
        self.complete(it, &id, Action::Created).await.map(Some)
    }

    /// Gives a record that is there what it lacks.
    async fn complete(&self, it: &Exported<'_>, id: &str, action: Action) -> Result<Done, Error> {
        let trashed = it.part.deleted && self.has(it.part, id);
        let present = Done::new(Action::Present, id);
        let (Some(link), false) = (&it.link, trashed) else {
            return if it.link.is_none() { self.discard(it, present).await } else { Ok(present) };
        };
        let there = self.backend.ims.find(it.part.collection, id, self.cancel).await?;
        let there = there.as_ref().and_then(layout::link);
        if there.is_some() && self.report(it, id).await?.is_good() {
            let etags = self.etags(it, id).await?;
            return self.discard(it, Done { etags, ..present }).await;
        }
        if id == it.id && there.as_ref().is_some_and(|there| there.path != link.path) {
            return Err(Error::OtherLink(there.map(|there| there.path).unwrap_or_default()));
        }
        if self.options.dry_run {
            return Ok(Done::new(action, id));
        }
        let sent = self.upload(it, id, link, there.is_none()).await?;
        self.link(it, id, there.as_ref(), &sent.link).await?;
        self.discard(it, Done { etags: sent.etags, ..Done::new(action, id) }).await
    }

    /// Creates a new record with all that belongs to it, or nothing.
    async fn create(&self, it: &Exported<'_>) -> Result<Done, Error> {
        if let Some(link) = &it.link {
            match it.part.collection {
                Collection::Images => check_image(self.supply, &it.image_files(link)).await?,
                _ => drop(
                    self.supply.open(&it.recipe_file(link)).await.map_err(upload::Error::from)?,
                ),
            }
        }
        let action = Action::Created;
        if self.options.dry_run {
            return Ok(Done::new(action, ""));
        }
        let fields = it.fields();
        let entry = Entry { fields: fields.clone(), begun: Timestamp::now(), id: None };
        self.journal.set(&it.key(), entry.clone())?;
        let made = self.backend.ims.create_in(it.part.collection, fields, self.cancel).await?;
        let id = layout::text(&made, "id").to_owned();
        self.claim(&id);
        self.journal.set(&it.key(), Entry { id: Some(id.clone()), ..entry })?;
        let filled = async {
            let etags = match &it.link {
                None => BTreeMap::new(),
                Some(link) => {
                    let sent = self.upload(it, &id, link, true).await?;
                    self.link(it, &id, None, &sent.link).await?;
                    sent.etags
                }
            };
            self.discard(it, Done { etags, ..Done::new(action, &id) }).await
        };
        match filled.await {
            Ok(done) => Ok(done),
            Err(error) => {
                self.withdraw(it, &id).await;
                self.journal.remove(&it.key())?;
                Err(error)
            }
        }
    }

    /// `is_new`: nothing links to the record's own objects yet, so that they may be sent again.
    async fn upload(
        &self,
        it: &Exported<'_>,
        id: &str,
        link: &Link,
        is_new: bool,
    ) -> Result<Sent, Error> {
        let overwrite = self.options.overwrite || (is_new && id != it.id);
        let upload = self.uploading(it, id, overwrite);
        Ok(match it.part.collection {
            Collection::Images => upload.image(&it.image_files(link), link).await?,
            _ => {
                let path = it.recipe_file(link);
                upload.recipe(&path, self.sums.get(&path), link).await?
            }
        })
    }

    fn uploading<'a>(&'a self, it: &Exported<'a>, id: &'a str, overwrite: bool) -> Upload<'a> {
        Upload {
            backend: self.backend,
            supply: self.supply,
            meter: self.meter,
            overwrite,
            cancel: self.cancel,
            id,
            name: it.name,
            in_place: id == it.id,
        }
    }

    /// Links the record to what was sent, and looks at all of it once more.
    async fn link(
        &self,
        it: &Exported<'_>,
        id: &str,
        there: Option<&Link>,
        link: &Link,
    ) -> Result<(), Error> {
        if there != Some(link) {
            let linked = self.backend.ims.set_link(it.part.collection, id, link, self.cancel).await;
            match linked {
                // A link is set once: the record keeps the etag of the manifest that was lost.
                Err(error) if error.status() == Some(409) && there.is_some() => {
                    tracing::warn!(id, "IMS does not let the etag of the record's link change");
                    return Ok(());
                }
                linked => drop(linked?),
            }
        }
        match self.report(it, id).await? {
            report if report.is_good() => Ok(()),
            report => Err(Error::Wrong(report.all_problems().join("; "))),
        }
    }

    async fn report(&self, it: &Exported<'_>, id: &str) -> Result<verify::Report, Error> {
        Ok(match it.part.collection {
            Collection::Images => verify::image(self.backend, id, self.cancel).await?,
            _ => verify::recipe(self.backend, id, self.cancel).await?,
        })
    }

    /// Puts a record of the trash there, once it is complete.
    async fn discard(&self, it: &Exported<'_>, done: Done) -> Result<Done, Error> {
        // A record that exists under its old id was restored from the trash since.
        let belongs_there = it.part.deleted && done.id != it.id && !self.options.dry_run;
        if belongs_there && !self.has(it.part, &done.id) {
            self.backend.ims.discard(it.part.collection, &done.id, self.cancel).await?;
        }
        Ok(done)
    }

    async fn withdraw(&self, it: &Exported<'_>, id: &str) {
        match it.part.collection {
            Collection::Images => {
                let bucket = it.link.as_ref().and_then(|link| link.path.parse().ok());
                let bucket = bucket
                    .map_or(self.backend.bucket.clone(), |object: s3_client::Object| object.bucket);
                publish::withdraw(&self.backend.ims, &self.backend.store, &bucket, id, true).await;
            }
            Collection::Recipes => drop(recipe::withdraw(self.backend, id).await),
            Collection::PublicKeys => {
                let never = tokio_util::sync::CancellationToken::new();
                if let Err(error) = self.backend.ims.delete(it.part.collection, id, &never).await {
                    tracing::error!(id, %error, "cannot roll back the public key, delete it by \
                        hand");
                }
            }
        }
    }

    /// Takes the record out of the trash: the one way to an old id that the service has.
    async fn undelete(&self, it: &Exported<'_>) -> Result<Done, Error> {
        let trash = Part { deleted: true, ..it.part };
        if it.part.deleted || !self.has(trash, it.id) {
            return Err(Error::KeepId);
        }
        let action = Action::Undeleted;
        if self.options.dry_run {
            return Ok(Done::new(action, it.id));
        }
        self.backend.ims.undelete(it.part.collection, it.id, self.cancel).await?;
        let done = self.complete(it, it.id, action).await?;
        Ok(Done { action, ..done })
    }

    /// The record that is the same under another id: of the same fields and content, and of no other
    /// record of the export.
    async fn same(&self, it: &Exported<'_>) -> Result<Option<String>, Error> {
        let fields = it.fields();
        let fields = fields.as_object().expect("made as an object");
        for (id, record) in self.records(it.part) {
            let same = fields.iter().all(|(name, value)| record.get(name) == Some(value));
            if !same || self.is_claimed(id) {
                continue;
            }
            let is_same = match (&it.link, layout::link(record)) {
                (None, None) => true,
                (Some(old), Some(new)) => self.same_content(it, old, &new).await?,
                _ => false,
            };
            if is_same && self.claim(id) {
                return Ok(Some(id.clone()));
            }
        }
        Ok(None)
    }

    async fn same_content(&self, it: &Exported<'_>, old: &Link, new: &Link) -> Result<bool, Error> {
        if it.part.collection == Collection::Recipes {
            let Ok(object) = new.path.parse() else { return Ok(false) };
            let head = self.backend.store.head(&object, self.cancel).await;
            return Ok(head.is_ok_and(|head| !old.etag.is_empty() && head.etag == old.etag));
        }
        let exported = content(&it.image_files(old).image_artifacts);
        let Ok(there) = self.backend.manifest(&new.path, self.cancel).await else {
            return Ok(false);
        };
        let mut there = there.manifest.artifacts;
        there.retain(|artifact| artifact.media_type != MANIFEST_TYPE);
        let there = existing::content(&there);
        Ok(!exported.is_empty()
            && exported == there
            && exported.iter().all(|(_, md5)| !md5.is_empty()))
    }

    /// Etags that differ between the export and a record with the same content.
    async fn etags(&self, it: &Exported<'_>, id: &str) -> Result<BTreeMap<String, String>, Error> {
        let mut etags = BTreeMap::new();
        if id == it.id || it.part.deleted {
            return Ok(etags);
        }
        let there = self.backend.ims.find(it.part.collection, id, self.cancel).await?;
        let there = there.as_ref().and_then(layout::link);
        let (Some(old), Some(new)) = (&it.link, there) else { return Ok(etags) };
        note(&mut etags, &old.etag, &new.etag);
        if it.part.collection == Collection::Images {
            let files = it.image_files(old);
            let exported = read_manifest(self.supply, &files.manifest_json).await;
            let there = self.backend.manifest(&new.path, self.cancel).await;
            if let (Ok((_, exported)), Ok(there)) = (exported, there) {
                for (old, new) in exported.artifacts.iter().zip(&there.manifest.artifacts) {
                    note(&mut etags, &old.link.etag, &new.link.etag);
                }
            }
        }
        Ok(etags)
    }
}
