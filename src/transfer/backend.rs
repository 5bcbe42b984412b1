//! The services with the records and objects: one IMS and its store.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use crate::publish::manifest::{self, Kind, Manifest};
use ims_client as ims;
use s3_client::{self as s3, BadPath, Object, Store};

/// The bucket of recipes; that of images is configured.
pub const RECIPES: &str = "ims";

/// The registry and the store that belong together.
#[derive(Debug, Clone)]
pub struct Backend {
    pub ims: ims::Client,
    pub store: Store,
    /// Bucket of new images.
    pub bucket: String,
    /// Where commands of this machine write down what they publish.
    pub publications: PathBuf,
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the link of the record is not valid")]
    Path(#[from] BadPath),
    #[error("cannot read the manifest {object}")]
    Read { object: Object, source: Box<s3::Error> },
    #[error("the manifest {object} has {size} bytes; it must be smaller than 1 MiB")]
    TooLarge { object: Object, size: u64 },
    #[error("the manifest {object} cannot be used")]
    Unusable { object: Object, source: manifest::Error },
}

/// A manifest with its bytes as they are stored.
#[derive(Debug, Clone)]
pub struct Read {
    pub object: Object,
    pub head: s3::Head,
    pub bytes: Vec<u8>,
    pub manifest: Manifest,
}

/// Where the history of an image may lie, by its id and the object of its manifest. When an image goes
/// to the trash, IMS moves the manifest and what that lists, and nothing else.
pub fn history(id: &str, manifest: &Object) -> [Object; 2] {
    let directory = match manifest.key.rsplit_once('/') {
        Some((directory, _)) if !directory.starts_with("deleted/") => directory,
        _ => id,
    };
    Kind::HISTORY
        .map(|kind| Object::new(&manifest.bucket, format!("{directory}/{}", kind.key_name())))
}

impl Backend {
    /// Of the history of an image, what the store has.
    pub async fn history(
        &self,
        id: &str,
        manifest: &Object,
        cancel: &CancellationToken,
    ) -> Result<Vec<(Object, s3::Head)>, s3::Error> {
        let mut found = Vec::new();
        for object in history(id, manifest) {
            match self.store.head(&object, cancel).await {
                Ok(head) => found.push((object, head)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Reads the manifest at `path` (`s3://bucket/key`).
    pub async fn manifest(
        &self,
        path: &str,
        cancel: &CancellationToken,
    ) -> Result<Read, ManifestError> {
        let object: Object = path.parse()?;
        let failed = |source: s3::Error| ManifestError::Read {
            object: object.clone(),
            source: source.into(),
        };
        let head = self.store.head(&object, cancel).await.map_err(failed)?;
        if head.size >= manifest::SIZE_LIMIT as u64 {
            return Err(ManifestError::TooLarge { object, size: head.size });
        }
        let bytes = self.store.get_bytes(&object, manifest::SIZE_LIMIT, cancel).await;
        let bytes = bytes.map_err(failed)?;
        match Manifest::read(&bytes) {
            Ok(manifest) => Ok(Read { object, head, bytes, manifest }),
            Err(source) => Err(ManifestError::Unusable { object, source }),
        }
    }
}
