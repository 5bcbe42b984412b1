//! Whole collections, their trash, and unparsed records, to move data between services.
//!
//! Uses v3, because only v3 has the trash and the metadata of images (contract section 7). Records
//! stay JSON as received, so that no unknown field is lost.

use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::client::Client;
use super::error::Error;
use super::records::Link;

const V3: &[&str] = &["v3"];

/// A kind of records.
#[allow(missing_docs, reason = "the names say it")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Collection {
    Images,
    Recipes,
    PublicKeys,
}

impl Collection {
    /// The last part of its URL.
    pub fn path(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Recipes => "recipes",
            Self::PublicKeys => "public-keys",
        }
    }
}

impl Client {
    /// All records.
    pub async fn list(
        &self,
        collection: Collection,
        cancel: &CancellationToken,
    ) -> Result<Vec<Value>, Error> {
        self.get_url(self.versioned(V3, &[collection.path()]), cancel).await
    }

    /// All records in the trash.
    pub async fn list_deleted(
        &self,
        collection: Collection,
        cancel: &CancellationToken,
    ) -> Result<Vec<Value>, Error> {
        self.get_url(self.versioned(V3, &["deleted", collection.path()]), cancel).await
    }

    /// One record; `None` if there is none.
    pub async fn find(
        &self,
        collection: Collection,
        id: &str,
        cancel: &CancellationToken,
    ) -> Result<Option<Value>, Error> {
        match self.get_url(self.versioned(V3, &[collection.path(), id]), cancel).await {
            Err(error) if error.status() == Some(404) => Ok(None),
            found => found.map(Some),
        }
    }

    /// Creates a record of these fields, without a link yet; once, although answers may be lost.
    pub async fn create_in(
        &self,
        collection: Collection,
        fields: Value,
        cancel: &CancellationToken,
    ) -> Result<Value, Error> {
        self.create(self.versioned(V3, &[collection.path()]), fields, cancel).await
    }

    /// The records of these fields without a link that were created since `begun`: one may be that of a
    /// process which ended before it could write down the id.
    pub async fn made_in(
        &self,
        collection: Collection,
        fields: &Value,
        begun: Timestamp,
    ) -> Result<Vec<Value>, Error> {
        self.made_since(&self.versioned(V3, &[collection.path()]), fields, begun).await
    }

    /// Sets a record's link, which can be done once.
    pub async fn set_link(
        &self,
        collection: Collection,
        id: &str,
        link: &Link,
        cancel: &CancellationToken,
    ) -> Result<Value, Error> {
        self.patch_in(collection, id, json!({ "link": link }), cancel).await
    }

    /// Changes fields of a record.
    pub async fn patch_in(
        &self,
        collection: Collection,
        id: &str,
        fields: Value,
        cancel: &CancellationToken,
    ) -> Result<Value, Error> {
        let url = self.versioned(V3, &[collection.path(), id]);
        let (request, answer) = self.send(Method::PATCH, url, Some(fields), cancel).await?;
        request.record(&answer)
    }

    /// Deletes a record for good, not its artifacts; success if it is already deleted.
    pub async fn delete(
        &self,
        collection: Collection,
        id: &str,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let mut url = self.url(&[collection.path(), id]);
        url.set_query(Some("cascade=false"));
        self.gone(url, cancel).await
    }

    /// Puts a record and its artifacts into the trash.
    pub async fn discard(
        &self,
        collection: Collection,
        id: &str,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        self.gone(self.versioned(V3, &[collection.path(), id]), cancel).await
    }

    /// Takes a record and its artifacts out of the trash: it has its old id again.
    pub async fn undelete(
        &self,
        collection: Collection,
        id: &str,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let url = self.versioned(V3, &["deleted", collection.path(), id]);
        let body = json!({ "operation": "undelete" });
        self.send(Method::PATCH, url, Some(body), cancel).await.map(|_| ())
    }

    async fn gone(&self, url: Url, cancel: &CancellationToken) -> Result<(), Error> {
        match self.send(Method::DELETE, url, None, cancel).await {
            Err(error) if error.status() != Some(404) => Err(error),
            _ => Ok(()),
        }
    }

    async fn get_url<T: serde::de::DeserializeOwned>(
        &self,
        url: Url,
        cancel: &CancellationToken,
    ) -> Result<T, Error> {
        let (request, answer) = self.send(Method::GET, url, None, cancel).await?;
        request.record(&answer)
    }
}
