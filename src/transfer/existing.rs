//! Finds images that are already registered: the same name, architecture and content.

use tokio_util::sync::CancellationToken;

use super::backend::{Backend, ManifestError};
use crate::publish::manifest::Artifact;
use crate::telemetry::chain;
use ims_client::Arch;
use ims_client::{self as ims, Collection, Image};

/// Type and md5 of an image's artifacts, sorted: two images with the same ones are the same.
pub type Content = Vec<(String, String)>;

/// The content that a manifest lists.
pub fn content(artifacts: &[Artifact]) -> Content {
    let mut content: Content =
        artifacts.iter().map(|it| (it.media_type.clone(), it.md5.to_ascii_lowercase())).collect();
    content.sort();
    content
}

/// The complete image records of a name and an architecture.
pub async fn candidates(
    backend: &Backend,
    name: &str,
    arch: Arch,
    cancel: &CancellationToken,
) -> Result<Vec<Image>, ims::Error> {
    let records = backend.ims.list(Collection::Images, cancel).await?;
    let images = records.into_iter().filter_map(|it| serde_json::from_value::<Image>(it).ok());
    let same = |image: &Image| {
        let arch_of = image.arch.as_deref();
        image.name == name
            && image.link.is_some()
            && arch_of.is_none_or(|found| found == arch.to_string())
    };
    Ok(images.filter(same).collect())
}

/// The first of `candidates` whose manifest lists `content`, with its artifacts.
///
/// One whose manifest cannot be read is passed over, and logged: it is no reason not to import.
pub async fn find(
    backend: &Backend,
    candidates: Vec<Image>,
    content_wanted: &Content,
    cancel: &CancellationToken,
) -> Result<Option<(Image, Vec<Artifact>)>, ManifestError> {
    for image in candidates {
        let Some(link) = &image.link else { continue };
        match backend.manifest(&link.path, cancel).await {
            Ok(read) if content(&read.manifest.artifacts) == *content_wanted => {
                return Ok(Some((image, read.manifest.artifacts)));
            }
            Ok(_) => {}
            Err(_) if cancel.is_cancelled() => return Ok(None),
            Err(error) => {
                tracing::warn!(id = image.id, error = %chain(&error), "an image of the same name has no usable manifest");
            }
        }
    }
    Ok(None)
}
