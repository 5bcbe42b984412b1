//! Handles the publication of a process that was killed: if its image is complete, it is the
//! result; otherwise it is rolled back.

use md5::{Digest, Md5};
use tokio_util::sync::CancellationToken;

use super::journal::{Entry, Journal};
use super::manifest::{self, Artifact, Kind, Manifest};
use super::register::{Error, Published, withdraw};
use ims_client::{self as ims, Image, Job};
use s3_client::{Object, Store};

/// Finishes or rolls back an earlier publication, according to its journal. Returns its image if it
/// is complete; otherwise everything is rolled back and the journal is removed.
pub async fn finish_or_roll_back(
    ims: &ims::Client,
    store: &Store,
    journal: &Journal,
    cancel: &CancellationToken,
) -> Result<Option<Image>, Error> {
    let Some(entry) = journal.load()? else { return Ok(None) };
    let Some(id) = record(ims, &entry, cancel).await? else {
        journal.remove()?;
        return Ok(None);
    };
    match ims.image(&id, cancel).await {
        Ok(image) if image.link.is_some() => return Ok(Some(image)),
        Ok(_) => {}
        Err(error) if error.status() == Some(404) => {}
        Err(source) => return Err(Error::Earlier { image_id: id, source }),
    }
    tracing::warn!(
        image = id,
        "an earlier run was killed while it published: rolling back what \
        it did"
    );
    if !withdraw(ims, store, &entry.bucket, &id, false).await {
        return Err(Error::Left { image_id: id });
    }
    journal.remove()?;
    Ok(None)
}

/// The id of the record, even if its process was killed before it knew the id.
async fn record(
    ims: &ims::Client,
    entry: &Entry,
    cancel: &CancellationToken,
) -> Result<Option<String>, Error> {
    if let Some(id) = &entry.image_id {
        return Ok(Some(id.clone()));
    }
    let made = ims.images_made(&entry.name, entry.arch, entry.begun, cancel).await;
    let made = made.map_err(Error::Create)?;
    if let [_, _, ..] = &made[..] {
        tracing::error!(
            name = entry.name,
            "several records without a link may be from an earlier run: removing none of them"
        );
    }
    Ok(<[Image; 1]>::try_from(made).ok().map(|[image]| image.id))
}

/// The artifacts of a complete image, from its manifest.
pub async fn read(
    image: Image,
    job: Option<Job>,
    store: &Store,
    cancel: &CancellationToken,
) -> anyhow::Result<Published> {
    let link = image.link.clone();
    let link = link.ok_or_else(|| anyhow::anyhow!("image {} has no manifest", image.id))?;
    let object: Object = link.path.parse()?;
    let json = store.with_long_deadline().get_bytes(&object, manifest::SIZE_LIMIT, cancel).await?;
    let artifacts = Manifest::read(&json)?.artifacts;
    let (media_type, md5) = (Kind::Manifest.media_type().into(), hex::encode(Md5::digest(&json)));
    let manifest = Artifact { link, media_type, md5 };
    Ok(Published { image, artifacts, manifest, job })
}
