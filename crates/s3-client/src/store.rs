//! A client of one S3 endpoint: small requests, with retries.
//!
//! Uploads are in `put`, downloads of images in `get`. No request is logged: keys and signatures
//! are in their headers.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::connector::Connector;
use super::error::Error;
use super::get::{Source, SourceError};
use super::object::Object;
use super::unanswered::Unanswered;
use net::{Policy, Trust};

/// Region named in signatures. A RADOS gateway has none and takes any that is signed consistently.
const REGION: &str = "us-east-1";

/// How long a presigned URL of ours works; a fresh one is created when it has expired.
const PRESIGNED_FOR: Duration = Duration::from_secs(3600);

/// How long one try may take that moves a part's bytes, at most. 8 MiB in that time are 35 KB/s.
const PART_TIME: Duration = Duration::from_secs(240);

/// Where the store is and who we are to it.
#[derive(Debug, Clone)]
pub struct Config {
    /// The URL of the store, without a bucket.
    pub endpoint: Url,
    /// Who we are.
    pub access_key: String,
    /// What requests are signed with.
    pub secret_key: SecretString,
    /// Which certificates are believed.
    pub trust: Trust,
    /// How long the store is waited for where a user's work depends on it, and for an answer that takes
    /// it long by nature: putting an object together.
    pub timeout: Duration,
}

/// A client of one S3 endpoint. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) client: Client,
    http: reqwest::Client,
    policy: Policy,
    timeout: Duration,
    /// Shared by all clones.
    pub(super) unanswered: Unanswered,
}

/// What the store says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Without quotes.
    pub etag: String,
    /// Bytes.
    pub size: u64,
    /// User metadata: names in lower case, without `x-amz-meta-`.
    pub metadata: BTreeMap<String, String>,
}

impl Store {
    /// A client; no request is made.
    pub fn new(config: Config) -> Result<Self, Error> {
        let http = net::client(&config.trust, Policy::within(config.timeout).answer)?;
        // What is sent counts as silence: the limits of the calls hold.
        let sending = net::client(&config.trust, config.timeout)?;
        let credentials = Credentials::new(
            config.access_key,
            config.secret_key.expose_secret(),
            None,
            None,
            "job environment",
        );
        let sdk = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(Connector(sending))
            .endpoint_url(config.endpoint.as_str().trim_end_matches('/'))
            .region(Region::from_static(REGION))
            .credentials_provider(credentials)
            .force_path_style(true)
            // Ours are the retries and the timeouts: one policy for SDK and plain requests.
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            // The newer CRC trailers are unknown to Ceph 16; Content-MD5 guards what we send.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .build();
        let client = Client::from_conf(sdk);
        let (policy, unanswered) = (Policy::default(), Unanswered::default());
        Ok(Self { client, http, policy, timeout: config.timeout, unanswered })
    }

    /// The same store with another retry policy.
    pub fn with_policy(&self, policy: Policy) -> Self {
        Self { policy, ..self.clone() }
    }

    /// The same store with a deadline that is long enough for its restart: for requests on which a
    /// user's work depends.
    pub fn with_long_deadline(&self) -> Self {
        let deadline = self.policy.deadline.max(self.timeout);
        self.with_policy(Policy { deadline, ..self.policy })
    }

    /// When requests are tried again.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The limit of a try that moves the bytes of one part.
    pub(super) fn part_time(&self) -> Duration {
        PART_TIME.min(self.timeout)
    }

    /// The limit of a try for which the store may have to look at all bytes of an object.
    pub(super) fn object_time(&self) -> Duration {
        self.timeout
    }

    /// The HTTP client, for [`super::get::to_file`].
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The source of a download with our own keys.
    pub fn source(&self, object: Object) -> Arc<dyn Source> {
        Arc::new(Presigner { store: self.clone(), object })
    }

    /// Sends one small request, again while its failure is transient.
    pub(super) async fn call<T, E, F, Fut>(
        &self,
        operation: &'static str,
        target: &str,
        cancel: &CancellationToken,
        mut request: F,
    ) -> Result<T, Error>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let (what, limit) = (format!("{operation} {target}"), self.policy.answer);
        let result = self.policy.run(&what, cancel, Error::is_transient, || {
            let sent = timeout(limit, request());
            async {
                match sent.await {
                    Ok(sent) => sent.map_err(|error| Error::from_sdk(operation, target, error)),
                    Err(_) => Err(Error::late(operation, target, limit)),
                }
            }
        });
        Ok(result.await?)
    }

    /// Sends one request that changes something, again while its failure is transient; damage on the way
    /// counts once. Each try may take `limit`. Cancelled, it waits a little for the answer of the try that
    /// is on its way: see [`Unanswered`].
    pub(super) async fn change_within<T, E, F, Fut>(
        &self,
        limit: Duration,
        operation: &'static str,
        target: &str,
        cancel: &CancellationToken,
        mut request: F,
    ) -> Result<T, Error>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let damaged = AtomicU32::new(0);
        let transient = |error: &Error| {
            error.is_transient()
                || (error.is_damage() && damaged.fetch_add(1, Ordering::Relaxed) == 0)
        };
        let what = format!("{operation} {target}");
        let result = self.policy.run_to_answer(&what, cancel, transient, || {
            let (sent, open) = (timeout(limit, request()), self.unanswered.open());
            async {
                let answer = match sent.await {
                    Ok(sent) => sent.map_err(|error| Error::from_sdk(operation, target, error)),
                    Err(_) => Err(Error::late(operation, target, limit)),
                };
                if !answer.as_ref().is_err_and(Error::is_ambiguous) {
                    open.answered();
                }
                answer
            }
        });
        Ok(result.await?)
    }

    /// Size, etag and metadata of an object.
    pub async fn head(&self, object: &Object, cancel: &CancellationToken) -> Result<Head, Error> {
        let answer = self
            .call("look up", &object.to_string(), cancel, || {
                self.client.head_object().bucket(&object.bucket).key(&object.key).send()
            })
            .await?;
        Ok(Head {
            etag: super::etag::unquoted(answer.e_tag().unwrap_or_default()).to_owned(),
            size: answer.content_length().unwrap_or_default().max(0) as u64,
            metadata: answer.metadata.unwrap_or_default().into_iter().collect(),
        })
    }

    /// The bytes of a small object: a manifest, not an image.
    pub async fn get_bytes(
        &self,
        object: &Object,
        limit: usize,
        cancel: &CancellationToken,
    ) -> Result<Vec<u8>, Error> {
        let target = object.to_string();
        let read = || async {
            let url = self.presign_get(object).await?;
            let unanswered = |error: reqwest::Error| Error::Unanswered {
                operation: "read",
                target: target.clone(),
                source: error.without_url().into(),
            };
            let answer = self.http.get(url).send().await.map_err(unanswered)?;
            if !answer.status().is_success() {
                return Err(Error::Refused {
                    operation: "read",
                    target: target.clone(),
                    status: answer.status().as_u16(),
                    code: answer.status().canonical_reason().unwrap_or_default().to_owned(),
                    message: String::new(),
                });
            }
            net::body::read_limited(answer, limit)
                .await
                .map_err(|source| Error::Answer { target: target.clone(), source })
        };
        let what = format!("read {target}");
        let limit = self.policy.answer;
        let read_in_time = || async {
            let late = |_| Err(Error::late("read", &target, limit));
            timeout(limit, read()).await.unwrap_or_else(late)
        };
        Ok(self.policy.run(&what, cancel, Error::is_transient, read_in_time).await?)
    }

    /// A URL with which anyone can read the object for an hour.
    pub async fn presign_get(&self, object: &Object) -> Result<Url, Error> {
        let failed =
            |source| Error::Request { operation: "presign", target: object.to_string(), source };
        let expiry =
            PresigningConfig::expires_in(PRESIGNED_FOR).map_err(|error| failed(error.into()))?;
        let presigned = self
            .client
            .get_object()
            .bucket(&object.bucket)
            .key(&object.key)
            .presigned(expiry)
            .await
            .map_err(|error| failed(error.into()))?;
        presigned.uri().parse().map_err(|error: url::ParseError| failed(error.into()))
    }

    /// Creates the bucket unless it is there and ours.
    pub async fn create_bucket(
        &self,
        bucket: &str,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let made = self
            .call("create bucket", bucket, cancel, || {
                self.client.create_bucket().bucket(bucket).send()
            })
            .await;
        match made {
            // Stores report the owner in different ways; all we need is that we can use it.
            Err(error) if error.code().is_some_and(|code| code.starts_with("BucketAlready")) => {
                let look = || self.client.head_bucket().bucket(bucket).send();
                self.call("look up bucket", bucket, cancel, look).await.map(|_| ())
            }
            made => made.map(|_| ()),
        }
    }

    /// The keys that begin with `prefix`.
    pub async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        cancel: &CancellationToken,
    ) -> Result<Vec<String>, Error> {
        let target = format!("s3://{bucket}/{prefix}*");
        let mut keys = Vec::new();
        let mut token = None;
        loop {
            let page = self
                .call("list", &target, cancel, || {
                    let request = self.client.list_objects_v2().bucket(bucket).prefix(prefix);
                    request.set_continuation_token(token.clone()).send()
                })
                .await?;
            let contents = page.contents.unwrap_or_default();
            keys.extend(contents.into_iter().filter_map(|object| object.key));
            token = page.next_continuation_token;
            if token.is_none() {
                return Ok(keys);
            }
        }
    }

    /// Deletes an object; one that is not there is deleted already.
    pub async fn delete(&self, object: &Object, cancel: &CancellationToken) -> Result<(), Error> {
        let deleted = self
            .call("delete", &object.to_string(), cancel, || {
                self.client.delete_object().bucket(&object.bucket).key(&object.key).send()
            })
            .await;
        match deleted {
            Err(error) if !error.is_removed() => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes every object whose key begins with `prefix`; gives the number.
    pub async fn delete_prefix(
        &self,
        bucket: &str,
        prefix: &str,
        cancel: &CancellationToken,
    ) -> Result<usize, Error> {
        let keys = self.list(bucket, prefix, cancel).await?;
        for key in &keys {
            self.delete(&Object::new(bucket, key), cancel).await?;
        }
        Ok(keys.len())
    }
}

/// Gives presigned URLs of an object that our own keys can read.
struct Presigner {
    store: Store,
    object: Object,
}

#[async_trait]
impl Source for Presigner {
    async fn url(&self) -> Result<Url, SourceError> {
        Ok(self.store.presign_get(&self.object).await?)
    }
}
