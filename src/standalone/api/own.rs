//! Permissions of a job on images: it sees its own images and the one it works on, and links its
//! own images to its own objects.

use uuid::Uuid;

use super::auth::{Caller, forbidden};
use super::problem::{Problem, Result};
use super::{App, links, manifest};
use crate::standalone::grants::below;
use crate::standalone::records::{Image, Link};

/// The images that a caller may know of.
pub fn visible(app: &App, caller: Caller, images: Vec<Image>) -> Vec<Image> {
    let Caller::Job(job) = caller else { return images };
    let seen = |id| app.grants.with(job, |grant| grant.made(id) || grant.reads().image == Some(id));
    images.into_iter().filter(|image| seen(image.id) == Some(true)).collect()
}

/// Writes down that a job makes an image of this id, before it does.
pub async fn make(app: &App, caller: Caller, id: Uuid, link: Option<&Link>) -> Result<()> {
    let Caller::Job(job) = caller else { return Ok(()) };
    if link.is_some() {
        return Err(Problem::bad_request(
            "A job makes an image without a link, and sets that later.",
        ));
    }
    match change(app, job, |grant| grant.make(id)).await? {
        true => Ok(()),
        false => Err(Problem::conflict("This job has made too many images.")),
    }
}

/// Checks a link that a caller sets. A job links only its own objects, and cannot change them
/// afterwards: otherwise the deletion of the image would delete whatever a changed manifest lists.
pub async fn check_link(app: &App, caller: Caller, image: &Image, link: &Link) -> Result<()> {
    let Caller::Job(job) = caller else {
        return links::check::<Image>(app, image.link.as_ref(), Some(link)).await;
    };
    let id = image.id;
    change(app, job, |grant| grant.seal(id, true)).await?;
    let checked = own(app, image, link).await;
    if checked.is_err() && image.link.is_none() {
        change(app, job, |grant| grant.seal(id, false)).await?;
    }
    checked
}

/// Lets a job remove the objects of an image whose record it has deleted.
pub async fn deleted(app: &App, caller: Caller, id: Uuid) -> Result<()> {
    let Caller::Job(job) = caller else { return Ok(()) };
    change(app, job, |grant| grant.seal(id, false)).await
}

/// Whether this is an image that the caller may name as its result.
pub fn is_own(app: &App, caller: Caller, id: Uuid) -> bool {
    match caller {
        Caller::Owner => true,
        Caller::Job(job) => app.grants.with(job, |grant| grant.made(id)) == Some(true),
    }
}

async fn own(app: &App, image: &Image, link: &Link) -> Result<()> {
    links::check::<Image>(app, image.link.as_ref(), Some(link)).await?;
    let artifacts = manifest::artifacts(&manifest::read(&app.objects, link).await?)?;
    let listed = artifacts.into_iter().map(|artifact| artifact.object);
    for object in listed.chain([manifest::object(link)?]) {
        if object.bucket != "boot-images" || !below(&object.key, image.id) {
            return Err(Problem::unprocessable(format!(
                "{object} is not below {}: a job links its own objects.",
                image.id
            )));
        }
    }
    Ok(())
}

async fn change<T>(
    app: &App,
    job: Uuid,
    edit: impl FnOnce(&mut crate::standalone::grants::Grant) -> T,
) -> Result<T> {
    let changed = app.grants.change(job, edit).await.map_err(|error| Problem::internal(&error))?;
    changed.ok_or_else(forbidden)
}
