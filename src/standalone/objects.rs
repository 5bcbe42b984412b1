//! The API's access to the object store, embedded or external: through S3.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;
use url::Url;

use s3_client::{Error, Head, Object, Store};

/// A client for what is small: manifests, moves, deletes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Store,
    shutdown: CancellationToken,
}

impl Objects {
    pub fn new(store: Store, shutdown: CancellationToken) -> Self {
        Self { store, shutdown }
    }

    pub async fn make_bucket(&self, name: &str) -> Result<(), Error> {
        self.store.create_bucket(name, &self.shutdown).await
    }

    /// `None` if there is no such object.
    pub async fn head(&self, object: &Object) -> Result<Option<Head>, Error> {
        missing_is_none(self.store.head(object, &self.shutdown).await)
    }

    /// The bytes of an object of at most `limit` bytes; `None` if there is no such object.
    pub async fn read(&self, object: &Object, limit: usize) -> Result<Option<Vec<u8>>, Error> {
        missing_is_none(self.store.get_bytes(object, limit, &self.shutdown).await)
    }

    /// Writes a small object; gives its etag.
    pub async fn write(&self, object: &Object, bytes: &[u8]) -> Result<String, Error> {
        let options = Default::default();
        Ok(self.store.put_bytes(object, bytes, &options, &self.shutdown).await?.etag)
    }

    /// Copies with metadata; gives the etag of the copy, `None` if there is no such object.
    pub async fn copy(&self, from: &Object, to: &Object) -> Result<Option<String>, Error> {
        if missing_is_none(self.store.copy(from, to, &self.shutdown).await)?.is_none() {
            return Ok(None);
        }
        // Some stores give a copy another etag than they answer.
        Ok(self.head(to).await?.map(|head| head.etag))
    }

    /// Objects that do not exist are not an error.
    pub async fn delete_all(&self, objects: &[Object]) -> Result<(), Error> {
        for object in objects {
            self.store.delete(object, &self.shutdown).await?;
        }
        Ok(())
    }

    /// Metadata of the objects whose keys begin with `prefix`.
    pub async fn metadata_below(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> Result<Vec<BTreeMap<String, String>>, Error> {
        let mut all = Vec::new();
        for key in self.store.list(bucket, prefix, &self.shutdown).await? {
            all.extend(self.head(&Object::new(bucket, key)).await?.map(|head| head.metadata));
        }
        Ok(all)
    }

    /// Removes what is below `prefix`, unfinished uploads too. Gives the numbers of both.
    pub async fn delete_below(&self, bucket: &str, prefix: &str) -> Result<(usize, usize), Error> {
        let uploads = self.store.unfinished_uploads(bucket, prefix).await?;
        for (object, id) in &uploads {
            self.store.abort_upload(object, id).await?;
        }
        let objects = self.store.delete_prefix(bucket, prefix, &self.shutdown).await?;
        Ok((objects, uploads.len()))
    }

    /// A presigned URL of the object, valid for an hour.
    pub async fn presign(&self, object: &Object) -> Result<Url, Error> {
        self.store.presign_get(object).await
    }
}

fn missing_is_none<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
