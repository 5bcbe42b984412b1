//! Journals of what commands on this machine publish, in a directory that outlives them. The next
//! command for the same IMS rolls back what a killed command left behind.
//!
//! `ID.lock` is locked by the process that publishes, and names the IMS; beside it is `ID.image`,
//! the journal of an image, or `ID.recipe`, the journal of a recipe.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::backend::Backend;
use super::fetch;
use super::recipe;
use crate::publish::earlier;
use crate::publish::journal::Journal;
use crate::telemetry::chain;
use ims_client::Collection;
use linux::files::Locked;

/// The longest URL that is read from a lock file, in bytes.
const URL_LIMIT: u64 = 4096;

/// A recipe on its way.
#[derive(Debug, Serialize, Deserialize)]
struct Recipe {
    /// What the record is made of.
    fields: Value,
    /// When the record was requested, by this machine's clock.
    begun: Timestamp,
    /// Its id, once it is known.
    id: Option<String>,
}

/// One publication of this process.
#[derive(Debug)]
pub struct Publication {
    lock: PathBuf,
    _held: Locked,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot record in {path} what is being published")]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

impl Publication {
    /// Begins one, after what killed processes have left for this site is rolled back.
    pub async fn begin(backend: &Backend, cancel: &CancellationToken) -> Result<Self, Error> {
        let directory = &backend.publications;
        roll_back_killed(backend, directory, cancel).await;
        let failed = |source| Error { path: directory.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let lock = directory.join(format!("{}.lock", Uuid::new_v4()));
        // It gets its name when it is locked: other processes do not mistake it for one of a
        // process that has ended.
        let make = || {
            let new = lock.with_extension("new");
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(backend.ims.base().as_str().as_bytes())?;
            let held = Locked::exclusively(file);
            let held = held.map_err(|(_, errno)| io::Error::from(errno))?;
            std::fs::rename(&new, &lock)?;
            Ok(held)
        };
        let held = make().map_err(failed)?;
        Ok(Self { lock, _held: held })
    }

    /// The journal for an image.
    pub fn image(&self) -> Journal {
        Journal::at(self.lock.with_extension("image"))
    }

    /// Records a recipe: that it is requested, or its id.
    pub fn recipe(&self, fields: &Value, id: Option<&str>) -> Result<(), Error> {
        let path = self.lock.with_extension("recipe");
        let (fields, id) = (fields.clone(), id.map(str::to_owned));
        let recipe = Recipe { fields, begun: Timestamp::now(), id };
        let json = serde_json::to_vec_pretty(&recipe).expect("JSON values can be written as JSON");
        fetch::write(&path, &json).map_err(|error| Error { path, source: io::Error::other(error) })
    }

    /// The recipe is registered, or nothing of it is left.
    pub fn recipe_is_done(&self) {
        let _ = std::fs::remove_file(self.lock.with_extension("recipe"));
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        let left = ["image", "recipe"].map(|kind| self.lock.with_extension(kind).exists());
        // What could not be rolled back is left to the next command.
        if !left.contains(&true) {
            let _ = std::fs::remove_file(&self.lock);
        }
    }
}

/// Rolls back what killed processes have left for this site. What cannot be is logged and tried again by the
/// next command.
async fn roll_back_killed(backend: &Backend, directory: &Path, cancel: &CancellationToken) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for lock in entries.map(|entry| entry.path()) {
        if lock.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        let Some(held) = take(&lock, backend) else { continue };
        if let Err(error) = roll_back_one(backend, &lock, cancel).await {
            tracing::warn!(
                journal = %lock.display(),
                "cannot roll back now what an earlier command left behind: {error:#}"
            );
            continue;
        }
        let _ = std::fs::remove_file(&lock);
        drop(held);
    }
}

/// The lock, unless a living process has it, or it is about another IMS.
fn take(lock: &Path, backend: &Backend) -> Option<Locked> {
    let file = File::open(lock).ok()?;
    let held = Locked::exclusively(file).ok()?;
    let mut url = String::new();
    (&*held).take(URL_LIMIT).read_to_string(&mut url).ok()?;
    (url == backend.ims.base().as_str()).then_some(held)
}

async fn roll_back_one(
    backend: &Backend,
    lock: &Path,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let image = Journal::at(lock.with_extension("image"));
    if let Some(image) =
        earlier::finish_or_roll_back(&backend.ims, &backend.store, &image, cancel).await?
    {
        tracing::info!(image = image.id, "an earlier command was killed after it published");
    }
    image.remove()?;
    let path = lock.with_extension("recipe");
    let entry: Recipe = match std::fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    roll_back_recipe(backend, &entry, cancel).await?;
    Ok(std::fs::remove_file(&path)?)
}

async fn roll_back_recipe(
    backend: &Backend,
    entry: &Recipe,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let id = match &entry.id {
        Some(id) => id.clone(),
        None => {
            let made = backend.ims.made_in(Collection::Recipes, &entry.fields, entry.begun).await?;
            let [recipe] = &made[..] else { return Ok(()) };
            let Some(id) = recipe["id"].as_str() else { return Ok(()) };
            id.to_owned()
        }
    };
    let record = backend.ims.find(Collection::Recipes, &id, cancel).await?;
    if record.is_some_and(|record| !record["link"].is_null()) {
        return Ok(());
    }
    tracing::warn!(
        recipe = id,
        "an earlier command was killed during an import: rolling back what it did"
    );
    anyhow::ensure!(recipe::withdraw(backend, &id).await, "cannot remove recipe {id}");
    Ok(())
}

/// A failure to record is only a warning: publishing continues without a journal.
pub async fn begin_or_warn(backend: &Backend, cancel: &CancellationToken) -> Option<Publication> {
    Publication::begin(backend, cancel)
        .await
        .inspect_err(|error| {
            tracing::warn!(
                "if this command is killed, it may leave records or objects behind: \
                {}",
                chain(error)
            );
        })
        .ok()
}
