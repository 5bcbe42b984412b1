//! The requests of a job to IMS, one method each.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::collections::Collection;
use super::error::Error;
use super::oauth::{OAuthConfig, Tokens};
use super::records::{Image, Job, Link, PublicKey, Recipe};
use super::request::{Answer, Request, Sender};
use crate::Status;
use net::{CLEAN_UP_LIMIT, Policy, Trust};

/// Path segments between the base URL and a collection.
///
/// Empty: the unversioned paths, which are v2 and which every client of the pod contract uses. They
/// answer as v3 does, and their DELETE is final, so that a rollback leaves no `deleted/` record.
const VERSION: &[&str] = &[];

/// The address of IMS, credentials and timeouts.
#[derive(Debug, Clone)]
pub struct Config {
    /// `IMS_URL`.
    pub base: Url,
    /// Which certificates are believed.
    pub trust: Trust,
    /// `None`: no authentication.
    pub oauth: Option<OAuthConfig>,
    /// `IMS_PYTHON_HELPER_TIMEOUT`: how long IMS is waited for where a user's work depends on it.
    pub timeout: Duration,
    /// When requests are tried again.
    pub policy: Policy,
}

/// A client of one IMS. Cheap to clone; clones share the token.
#[derive(Debug, Clone)]
pub struct Client {
    base: Url,
    pub(super) sender: Arc<Sender>,
    pub(super) policy: Policy,
    timeout: Duration,
}

impl Client {
    /// A client; no request is made.
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
            timeout: config.timeout,
        })
    }

    /// The same service; the token is what a file says.
    pub fn with_token_file(self, path: std::path::PathBuf) -> Self {
        let (http, tokens) = (self.sender.http.clone(), Some(Tokens::in_file(path)));
        Self { sender: Arc::new(Sender { http, tokens }), ..self }
    }

    /// The same service with another retry policy.
    pub fn with_policy(&self, policy: Policy) -> Self {
        Self { policy, ..self.clone() }
    }

    /// The same service with a deadline that is long enough for its restart: for requests on which
    /// a user's work depends.
    pub fn with_long_deadline(&self) -> Self {
        let deadline = self.policy.deadline.max(self.timeout);
        self.with_policy(Policy { deadline, ..self.policy })
    }

    /// Sends a request that must arrive, with a long deadline; after `stop` is cancelled, for as
    /// long as a cleanup may take. `request` may be called twice, so it must be repeatable.
    pub async fn retry_past_shutdown<T, Fut>(
        &self,
        stop: &CancellationToken,
        request: impl Fn(Self, CancellationToken) -> Fut,
    ) -> Result<T, Error>
    where
        Fut: Future<Output = Result<T, Error>>,
    {
        match request(self.with_long_deadline(), stop.clone()).await {
            Err(Error::Cancelled) => {
                let policy = Policy { deadline: CLEAN_UP_LIMIT, ..Policy::CLEAN_UP };
                let last = request(self.with_policy(policy), CancellationToken::new());
                timeout(CLEAN_UP_LIMIT, last).await.unwrap_or(Err(Error::Cancelled))
            }
            answer => answer,
        }
    }

    /// The service's base URL.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// The bearer token for a request to `url`: only requests to the host of IMS (same scheme, name
    /// and port) get it.
    pub async fn token_for(&self, url: &Url) -> Result<Option<SecretString>, Error> {
        match &self.sender.tokens {
            Some(tokens) if url.origin() == self.base.origin() => {
                tokens.get(self.policy.answer).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Says that a token of [`Client::token_for`] was refused, so that the next is a new one.
    pub async fn token_refused(&self, token: &SecretString) {
        if let Some(tokens) = &self.sender.tokens {
            tokens.refused(token).await;
        }
    }

    /// A job by its id.
    pub async fn job(&self, id: &str, cancel: &CancellationToken) -> Result<Job, Error> {
        self.get(&["jobs", id], cancel).await
    }

    /// An image by its id.
    pub async fn image(&self, id: &str, cancel: &CancellationToken) -> Result<Image, Error> {
        self.get(&["images", id], cancel).await
    }

    /// A recipe by its id.
    pub async fn recipe(&self, id: &str, cancel: &CancellationToken) -> Result<Recipe, Error> {
        self.get(&["recipes", id], cancel).await
    }

    /// A public key by its id.
    pub async fn public_key(
        &self,
        id: &str,
        cancel: &CancellationToken,
    ) -> Result<PublicKey, Error> {
        self.get(&["public-keys", id], cancel).await
    }

    /// Changes the status of a job.
    pub async fn set_job_status(
        &self,
        id: &str,
        status: Status,
        cancel: &CancellationToken,
    ) -> Result<Job, Error> {
        self.patch(&["jobs", id], json!({ "status": status }), cancel).await
    }

    /// Names the image that a job has made.
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

    /// Deletes an image record for good, not its artifacts; success if it is already deleted.
    pub async fn delete_image(&self, id: &str, cancel: &CancellationToken) -> Result<(), Error> {
        self.delete(Collection::Images, id, cancel).await
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

    /// Sends a repeatable request, with retries while its failure is transient.
    pub(super) async fn send(
        &self,
        method: Method,
        url: Url,
        body: Option<Value>,
        cancel: &CancellationToken,
    ) -> Result<(Request, Answer), Error> {
        let request = Request { method, url, body };
        let what = request.name();
        let send = || self.sender.send(&request, self.policy.answer);
        let answer = self.policy.run(&what, cancel, Error::is_transient, send).await?;
        Ok((request, answer))
    }

    /// The URL of a collection or an item; ids are escaped.
    pub(super) fn url(&self, path: &[&str]) -> Url {
        self.versioned(VERSION, path)
    }

    pub(super) fn versioned(&self, version: &[&str], path: &[&str]) -> Url {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("new() refuses URLs that cannot be a base")
            .pop_if_empty()
            .extend(version)
            .extend(path);
        url
    }
}
