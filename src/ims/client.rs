//! What the job asks of IMS, a method each.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::error::Error;
use super::oauth::{OAuthConfig, Tokens};
use super::records::{Image, Job, Link, PublicKey, Recipe};
use super::request::{Answer, Request, Sender};
use crate::contract::{Arch, Status};
use crate::net::{self, Policy, Trust};

/// Path segments between the base URL and a collection.
///
/// Empty: the unversioned paths, which are v2 and which every client of the pod contract uses. They
/// answer as v3 does, and their DELETE is final, so that a roll-back leaves no `deleted/` record.
const VERSION: &[&str] = &[];

/// Clocks of IMS and the pod agree at least this well, once the `Date` header is taken into account.
const CLOCK_SLACK: Duration = Duration::from_secs(3);

/// Where IMS is and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Config {
    /// `IMS_URL`.
    pub base: Url,
    pub trust: Trust,
    /// `None`: no authentication.
    pub oauth: Option<OAuthConfig>,
    /// `IMS_PYTHON_HELPER_TIMEOUT`: the longest wait for an answer.
    pub timeout: Duration,
    pub policy: Policy,
}

/// A client of one IMS. Cheap to clone; clones share the token.
#[derive(Debug, Clone)]
pub struct Client {
    base: Url,
    sender: Arc<Sender>,
    policy: Policy,
}

impl Client {
    pub fn new(config: Config) -> Result<Self, Error> {
        if config.base.cannot_be_a_base() {
            return Err(Error::BadBase(config.base.to_string()));
        }
        let http = net::client(&config.trust, config.timeout)?;
        let tokens = config.oauth.map(|oauth| Tokens::new(oauth, http.clone()));
        Ok(Self {
            base: config.base,
            sender: Arc::new(Sender { http, tokens }),
            policy: config.policy,
        })
    }

    /// The same service with other rules for trying again.
    pub fn with_policy(&self, policy: Policy) -> Self {
        Self { policy, ..self.clone() }
    }

    pub async fn job(&self, id: &str, cancel: &CancellationToken) -> Result<Job, Error> {
        self.get(&["jobs", id], cancel).await
    }

    pub async fn image(&self, id: &str, cancel: &CancellationToken) -> Result<Image, Error> {
        self.get(&["images", id], cancel).await
    }

    pub async fn recipe(&self, id: &str, cancel: &CancellationToken) -> Result<Recipe, Error> {
        self.get(&["recipes", id], cancel).await
    }

    pub async fn public_key(
        &self,
        id: &str,
        cancel: &CancellationToken,
    ) -> Result<PublicKey, Error> {
        self.get(&["public-keys", id], cancel).await
    }

    pub async fn set_job_status(
        &self,
        id: &str,
        status: Status,
        cancel: &CancellationToken,
    ) -> Result<Job, Error> {
        self.patch(&["jobs", id], json!({ "status": status }), cancel).await
    }

    pub async fn set_job_result(
        &self,
        id: &str,
        image_id: &str,
        cancel: &CancellationToken,
    ) -> Result<Job, Error> {
        self.patch(&["jobs", id], json!({ "resultant_image_id": image_id }), cancel).await
    }

    /// Links the manifest. IMS accepts the same link again, so that a retry is safe.
    pub async fn set_image_link(
        &self,
        id: &str,
        link: &Link,
        cancel: &CancellationToken,
    ) -> Result<Image, Error> {
        self.patch(&["images", id], json!({ "link": link }), cancel).await
    }

    /// Deletes an image record for good, not its artifacts; one that is gone is deleted already.
    pub async fn delete_image(&self, id: &str, cancel: &CancellationToken) -> Result<(), Error> {
        let mut url = self.url(&["images", id]);
        url.set_query(Some("cascade=false"));
        match self.send(Method::DELETE, url, None, cancel).await {
            Err(error) if error.status() != Some(404) => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes an image record, without a link yet.
    ///
    /// A POST whose answer was lost may have made a record. Before such a POST is tried again, the
    /// images are listed: a single record with our name and arch, without a link, made since the
    /// first try began, is the one and is used. (Another job that made a record of the very same
    /// name within those seconds could not be told from it.) Otherwise the POST is sent again.
    pub async fn create_image(
        &self,
        name: &str,
        arch: Arch,
        cancel: &CancellationToken,
    ) -> Result<Image, Error> {
        let body = json!({ "name": name, "arch": arch });
        let request =
            Request { method: Method::POST, url: self.url(&["images"]), body: Some(body) };
        let begun = jiff::Timestamp::now();
        let in_doubt = std::sync::atomic::AtomicBool::new(false);
        let relaxed = std::sync::atomic::Ordering::Relaxed;
        let create = || async {
            if in_doubt.load(relaxed)
                && let Some(image) = self.made_since(begun, name, arch).await?
            {
                return Ok(image);
            }
            let made = match self.sender.send(&request).await {
                Ok(answer) => request.record(&answer),
                Err(error) => Err(error),
            };
            if made.as_ref().is_err_and(Error::is_ambiguous) {
                in_doubt.store(true, relaxed);
            }
            made
        };
        let what = request.name();
        Ok(self.policy.run(&what, cancel, Error::is_transient, create).await?)
    }

    /// The one record that a POST in doubt has made, if it has.
    async fn made_since(
        &self,
        begun: jiff::Timestamp,
        name: &str,
        arch: Arch,
    ) -> Result<Option<Image>, Error> {
        let request = Request { method: Method::GET, url: self.url(&["images"]), body: None };
        let answer = self.sender.send(&request).await?;
        let now = jiff::Timestamp::now();
        let ahead = answer.date.unwrap_or(now).duration_since(now);
        let earliest = begun + ahead - CLOCK_SLACK;
        let images: Vec<Image> = request.record(&answer)?;
        let ours = |image: &Image| {
            image.name == name
                && image.link.is_none()
                && image.arch.as_deref().is_none_or(|found| found == arch.to_string())
                && image.created.as_deref().and_then(utc).is_some_and(|made| made >= earliest)
        };
        let mut made: Vec<Image> = images.into_iter().filter(ours).collect();
        if made.len() > 1 {
            let ids: Vec<&str> = made.iter().map(|image| image.id.as_str()).collect();
            tracing::warn!(
                name,
                ?ids,
                "an answer was lost and several records could be ours: none is used"
            );
            return Ok(None);
        }
        if let Some(image) = made.first() {
            tracing::info!(id = image.id, name, "the record was made although the answer was lost");
        }
        Ok(made.pop())
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        cancel: &CancellationToken,
    ) -> Result<T, Error> {
        let (request, answer) = self.send(Method::GET, self.url(path), None, cancel).await?;
        request.record(&answer)
    }

    async fn patch<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: Value,
        cancel: &CancellationToken,
    ) -> Result<T, Error> {
        let (request, answer) =
            self.send(Method::PATCH, self.url(path), Some(body), cancel).await?;
        request.record(&answer)
    }

    /// Sends a request that may be repeated without harm, again while its failure is transient.
    async fn send(
        &self,
        method: Method,
        url: Url,
        body: Option<Value>,
        cancel: &CancellationToken,
    ) -> Result<(Request, Answer), Error> {
        let request = Request { method, url, body };
        let what = request.name();
        let send = || self.sender.send(&request);
        let answer = self.policy.run(&what, cancel, Error::is_transient, send).await?;
        Ok((request, answer))
    }

    /// The URL of a collection or an item; ids are escaped.
    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("new() refuses URLs that cannot be a base")
            .pop_if_empty()
            .extend(VERSION)
            .extend(path);
        url
    }
}

/// A time as IMS writes it: RFC 3339, or without a time zone and then UTC.
fn utc(text: &str) -> Option<jiff::Timestamp> {
    text.parse().ok().or_else(|| {
        let local: jiff::civil::DateTime = text.parse().ok()?;
        Some(local.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    })
}
