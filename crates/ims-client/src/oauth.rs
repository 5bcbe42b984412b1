//! Bearer tokens of the client-credentials grant (RFC 6749 section 4.4): fetched once for all
//! requests, replaced before they expire and after the service refused one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::ACCEPT;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use super::error::{Error, problem_text};
use net::body;
use net::redact;

/// A token is replaced this long before it expires, or when a fifth of its life is left.
const LONGEST_MARGIN: Duration = Duration::from_secs(60);

/// Life of a token that does not say how long it lives.
const UNSAID_LIFE: Duration = Duration::from_secs(300);

/// Longest answer of a token endpoint.
const ANSWER_LIMIT: usize = 256 << 10;

/// Who we are to the token endpoint.
#[derive(Debug, Clone)]
pub struct OAuthConfig {
    /// The name of the client.
    pub client_id: String,
    /// Its password.
    pub client_secret: SecretString,
    /// Where tokens are given.
    pub endpoint: Url,
}

/// `OAUTH_CLIENT_ID`, `OAUTH_CLIENT_SECRET`, `OAUTH_CLIENT_ENDPOINT`, where set.
#[derive(Debug, Clone, Default)]
pub struct OAuthOverrides {
    /// See [`OAuthConfig::client_id`].
    pub client_id: Option<String>,
    /// See [`OAuthConfig::client_secret`].
    pub client_secret: Option<SecretString>,
    /// See [`OAuthConfig::endpoint`].
    pub endpoint: Option<String>,
}

/// Why there are no credentials.
#[allow(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the OAuth file {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the OAuth endpoint {text:?} is not a URL")]
    Endpoint { text: String, source: url::ParseError },
}

impl OAuthConfig {
    /// Reads `client-id`, `client-secret` and `endpoint` from `dir`, overrides first.
    ///
    /// `None` where there is neither directory nor override: a service without authentication.
    pub fn load(dir: &Path, overrides: OAuthOverrides) -> Result<Option<Self>, ConfigError> {
        let OAuthOverrides { client_id, client_secret, endpoint } = overrides;
        let overridden = client_id.is_some() || client_secret.is_some() || endpoint.is_some();
        if !overridden && !dir.is_dir() {
            return Ok(None);
        }
        let file = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path)
                .map(|text| text.trim().to_owned())
                .map_err(|source| ConfigError::Read { path, source })
        };
        let endpoint = endpoint.map_or_else(|| file("endpoint"), Ok)?;
        let client_secret =
            client_secret.map_or_else(|| file("client-secret").map(SecretString::from), Ok)?;
        Ok(Some(Self {
            client_id: client_id.map_or_else(|| file("client-id"), Ok)?,
            client_secret,
            endpoint: endpoint
                .parse()
                .map_err(|source| ConfigError::Endpoint { text: endpoint, source })?,
        }))
    }
}

/// Where tokens come from.
#[derive(Debug)]
enum Origin {
    Endpoint(OAuthConfig, reqwest::Client),
    /// A token that does not change, or is changed in the file.
    File(PathBuf),
}

/// The token of the moment.
#[derive(Debug)]
pub(super) struct Tokens {
    origin: Origin,
    /// Held while a token is fetched, so that many requests at once fetch one.
    current: Mutex<Option<Token>>,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub value: SecretString,
    /// When it should be replaced.
    stale: Instant,
}

impl Tokens {
    pub(super) fn new(config: OAuthConfig, http: reqwest::Client) -> Self {
        Self { origin: Origin::Endpoint(config, http), current: Mutex::new(None) }
    }

    /// The token is the text of a file.
    pub(super) fn in_file(path: PathBuf) -> Self {
        Self { origin: Origin::File(path), current: Mutex::new(None) }
    }

    /// A token that is good for now; each answer of the endpoint may take `limit`.
    pub(super) async fn get(&self, limit: Duration) -> Result<SecretString, Error> {
        let mut current = self.current.lock().await;
        if let Some(token) = current.as_ref().filter(|token| Instant::now() < token.stale) {
            return Ok(token.value.clone());
        }
        let token = self.fetch(limit).await?;
        Ok(current.insert(token).value.clone())
    }

    /// Forgets a token that the service refused, unless it was replaced meanwhile.
    pub(super) async fn refused(&self, refused: &SecretString) {
        let mut current = self.current.lock().await;
        let same = |token: &Token| token.value.expose_secret() == refused.expose_secret();
        if current.as_ref().is_some_and(same) {
            *current = None;
        }
    }

    /// The credentials go into the form, as the sites' own tools send them; an endpoint that wants
    /// them in the header (RFC 6749 section 2.3.1 allows both) refuses that and gets them there.
    async fn fetch(&self, limit: Duration) -> Result<Token, Error> {
        let (config, http) = match &self.origin {
            Origin::Endpoint(config, http) => (config, http),
            Origin::File(path) => return from_file(path).await,
        };
        let secret = config.client_secret.expose_secret();
        let grant = ("grant_type", "client_credentials");
        let id = ("client_id", config.client_id.as_str());
        let request = || {
            let request = http.post(config.endpoint.clone()).timeout(limit);
            request.header(ACCEPT, "application/json")
        };
        let in_form = request().form(&[grant, id, ("client_secret", secret)]);
        match Self::answer(&config.endpoint, in_form).await {
            Err(Error::TokenRefused { status: 400 | 401, .. }) => {
                let in_header = request().form(&[grant]);
                let in_header = in_header.basic_auth(&config.client_id, Some(secret));
                Self::answer(&config.endpoint, in_header).await
            }
            answer => answer,
        }
    }

    async fn answer(endpoint: &Url, request: reqwest::RequestBuilder) -> Result<Token, Error> {
        let asked = Instant::now();
        let endpoint = redact::url(endpoint);
        let answer = request.send().await.map_err(|error| Error::TokenUnanswered {
            endpoint: endpoint.clone(),
            source: error.without_url(),
        })?;
        let status = answer.status();
        let body = body::read_limited(answer, ANSWER_LIMIT)
            .await
            .map_err(|source| Error::Body { request: format!("POST {endpoint}"), source })?;
        if !status.is_success() {
            let (status, problem) = (status.as_u16(), problem_text(&body));
            return Err(Error::TokenRefused { endpoint, status, problem });
        }
        // Not the parser's own error: it may repeat a piece of the token.
        let token: Answer =
            serde_json::from_slice(&body).map_err(|_| Error::NotAToken { endpoint })?;
        Ok(token.into_token(asked))
    }
}

/// The file is read again when the service refuses what was in it.
async fn from_file(path: &Path) -> Result<Token, Error> {
    let failed = |source| Error::TokenFile { path: path.to_owned(), source };
    let text = tokio::fs::read_to_string(path).await.map_err(failed)?;
    let value = text.trim();
    if value.is_empty() || value.bytes().any(|byte| !byte.is_ascii_graphic()) {
        let why = io::Error::new(
            io::ErrorKind::InvalidData,
            "it does not contain a token on a \
            single line",
        );
        return Err(failed(why));
    }
    Ok(Token { value: value.into(), stale: Instant::now() + UNSAID_LIFE })
}

/// RFC 6749 section 5.1.
#[derive(Deserialize)]
struct Answer {
    access_token: SecretString,
    expires_in: Option<f64>,
}

impl Answer {
    fn into_token(self, asked: Instant) -> Token {
        let life = self.expires_in.map(Duration::try_from_secs_f64);
        let life = life.transpose().ok().flatten().unwrap_or(UNSAID_LIFE);
        let margin = (life / 5).min(LONGEST_MARGIN);
        Token { value: self.access_token, stale: asked + (life - margin) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_directory_means_no_authentication_and_a_partial_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent");
        assert!(OAuthConfig::load(&absent, OAuthOverrides::default()).unwrap().is_none());

        std::fs::write(dir.path().join("client-id"), "admin-client\n").unwrap();
        std::fs::write(dir.path().join("endpoint"), "https://keycloak/token\n").unwrap();
        let error = OAuthConfig::load(dir.path(), OAuthOverrides::default()).unwrap_err();
        assert!(error.to_string().contains("client-secret"), "{error}");

        let overrides =
            OAuthOverrides { client_secret: Some("s".into()), ..OAuthOverrides::default() };
        let config = OAuthConfig::load(dir.path(), overrides).unwrap().unwrap();
        assert_eq!(config.client_id, "admin-client");
        assert_eq!(config.endpoint.as_str(), "https://keycloak/token");
    }

    #[test]
    fn a_token_is_stale_before_it_expires() {
        let asked = Instant::now();
        for (said, stale_after) in [(Some(3600.0), 3540), (Some(10.0), 8), (None, 240)] {
            let answer = Answer { access_token: "t".into(), expires_in: said };
            assert_eq!(answer.into_token(asked).stale - asked, Duration::from_secs(stale_after));
        }
    }
}
