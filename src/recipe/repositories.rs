//! Waits until every repository of a recipe responds (contract section 8.3).

use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

use ims_client as ims;
use net::Trust;
use net::redact;

/// Repositories that are asked at once.
const CONCURRENCY: usize = 16;

/// How long one answer may take.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// The file that every rpm-md repository has.
const INDEX: [&str; 2] = ["repodata", "repomd.xml"];

/// How long, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// `TIMEOUT`.
    pub timeout: Duration,
    pub interval: Duration,
}

impl Patience {
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, interval: Duration::from_secs(10) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot set up the client for the repositories")]
    Client(#[source] net::trust::Error),
    #[error(
        "repositories did not respond within {} s: {}; check these repositories, or use others in \
         the recipe",
        .waited.as_secs(),
        list(.missing)
    )]
    NeverUp { waited: Duration, missing: Vec<Missing> },
    #[error("cancelled while waiting for repositories")]
    Cancelled,
}

/// A repository that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Without credentials.
    pub repository: String,
    /// What came instead of its index.
    pub why: String,
}

fn list(missing: &[Missing]) -> String {
    let one = |missing: &Missing| format!("{} ({})", missing.repository, missing.why);
    missing.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Returns when all of `repositories` have answered a HEAD of their index. A redirect is an answer:
/// where it leads is the package manager's business, and our token goes nowhere else.
///
/// `gateway` gives the token of requests to its own host.
pub async fn wait(
    repositories: &[Url],
    gateway: &ims::Client,
    trust: &Trust,
    patience: Patience,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let http = net::client_without_redirects(trust, ANSWER_TIME).map_err(Error::Client)?;
    let asking = Asking { http, gateway };
    let start = Instant::now();
    let mut waiting: Vec<Url> = repositories.to_vec();
    let all = async {
        loop {
            let asked = Instant::now();
            let missing = asking.ask_all(&waiting).await;
            if missing.is_empty() {
                return Ok(());
            }
            let next = asked + patience.interval;
            let (urls, missing): (Vec<_>, Vec<_>) = missing.into_iter().unzip();
            tracing::info!(
                waited = start.elapsed().as_secs(),
                timeout = patience.timeout.as_secs(),
                missing = %list(&missing),
                "waiting for repositories"
            );
            waiting = urls;
            let end = start + patience.timeout;
            if next > end {
                sleep_until(end).await;
                return Err(Error::NeverUp { waited: patience.timeout, missing });
            }
            sleep_until(next).await;
        }
    };
    cancel.run_until_cancelled(all).await.unwrap_or(Err(Error::Cancelled))
}

struct Asking<'a> {
    http: reqwest::Client,
    gateway: &'a ims::Client,
}

impl Asking<'_> {
    /// Those that did not answer as they should.
    async fn ask_all(&self, repositories: &[Url]) -> Vec<(Url, Missing)> {
        let ask = async |url: &Url| {
            let why = match timeout(ANSWER_TIME, self.ask(url)).await {
                Ok(Ok(())) => return None,
                Ok(Err(why)) => why,
                Err(_) => format!("no response within {} s", ANSWER_TIME.as_secs()),
            };
            Some((url.clone(), Missing { repository: redact::url(url), why }))
        };
        stream::iter(repositories)
            .map(ask)
            .buffered(CONCURRENCY)
            .filter_map(std::future::ready)
            .collect()
            .await
    }

    async fn ask(&self, repository: &Url) -> Result<(), String> {
        let token = self.gateway.token_for(repository).await;
        let token = token.map_err(|error| crate::telemetry::chain(&error))?;
        let mut request = self.http.head(index(repository));
        if let Some(token) = &token {
            request = request.bearer_auth(token.expose_secret());
        }
        let answer = request.send().await;
        let status =
            answer.map_err(|error| crate::telemetry::chain(&error.without_url()))?.status();
        if status == StatusCode::UNAUTHORIZED {
            self.forget(token).await;
        }
        if status.is_success() || status.is_redirection() {
            Ok(())
        } else {
            Err(status.to_string())
        }
    }

    /// A token that was refused is replaced before the next try.
    async fn forget(&self, token: Option<SecretString>) {
        if let Some(token) = token {
            self.gateway.token_refused(&token).await;
        }
    }
}

fn index(repository: &Url) -> Url {
    let mut url = repository.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend(INDEX);
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::response::Response;
    use ims_client::{Config, OAuthConfig};
    use net::testing::{QUICK, Server};

    const SOON: Patience =
        Patience { timeout: Duration::from_secs(20), interval: Duration::from_millis(20) };

    fn answer(status: u16) -> Response {
        Response::builder().status(status).body(Body::empty()).unwrap()
    }

    async fn gateway(base: &Url) -> (ims::Client, Server) {
        let tokens = Server::start(|_, _| {
            let body = r#"{"access_token": "t0ken", "expires_in": 3600}"#;
            Response::builder().body(Body::from(body)).unwrap()
        })
        .await;
        let client = ims::Client::new(Config {
            base: base.clone(),
            trust: Trust::System,
            oauth: Some(OAuthConfig {
                client_id: "admin".into(),
                client_secret: "s".into(),
                endpoint: tokens.url.clone(),
            }),
            timeout: Duration::from_secs(10),
            policy: QUICK,
        });
        (client.unwrap(), tokens)
    }

    #[tokio::test]
    async fn all_are_asked_until_the_last_one_is_there() {
        let late = Server::start(|number, _| answer(if number < 3 { 404 } else { 200 })).await;
        let moved = Server::start(|_, _| answer(302)).await;
        let (gateway, _tokens) = gateway(&"http://gateway.invalid/apis/ims".parse().unwrap()).await;
        let urls = [late.url.join("sles/a/").unwrap(), moved.url.join("b?k=v").unwrap()];
        let cancel = CancellationToken::new();
        wait(&urls, &gateway, &Trust::System, SOON, &cancel).await.unwrap();
        assert_eq!(late.lines(), vec!["HEAD /sles/a/repodata/repomd.xml"; 4]);
        assert_eq!(moved.lines(), ["HEAD /b/repodata/repomd.xml"], "asked once, and not followed");
        assert_eq!(moved.seen()[0].query(), "k=v");
        assert_eq!(late.seen()[0].header("authorization"), "", "no token for others");
    }

    #[tokio::test]
    async fn the_token_goes_to_the_gateways_own_host_alone() {
        let gate = Server::start(|_, _| answer(200)).await;
        let other = Server::start(|_, _| answer(200)).await;
        let (gateway, _tokens) = gateway(&gate.url.join("apis/ims").unwrap()).await;
        let urls = [gate.url.join("repository/x").unwrap(), other.url.clone()];
        let cancel = CancellationToken::new();
        wait(&urls, &gateway, &Trust::System, SOON, &cancel).await.unwrap();
        assert_eq!(gate.seen()[0].header("authorization"), "Bearer t0ken");
        assert_eq!(other.seen()[0].header("authorization"), "");
    }

    #[tokio::test]
    async fn what_never_comes_up_is_named() {
        let up = Server::start(|_, _| answer(200)).await;
        let down = Server::start(|_, _| answer(503)).await;
        let (gateway, _tokens) = gateway(&"http://gateway.invalid/".parse().unwrap()).await;
        let patience =
            Patience { timeout: Duration::from_millis(60), interval: Duration::from_millis(20) };
        let urls = [up.url.clone(), down.url.clone()];
        let cancel = CancellationToken::new();
        let error = wait(&urls, &gateway, &Trust::System, patience, &cancel).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(down.url.as_str()) && text.contains("503"), "{text}");
        assert!(!text.contains(up.url.as_str()), "{text}");
    }

    #[tokio::test]
    async fn a_wait_can_be_stopped() {
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let down = Server::start(move |_, _| {
            stop.cancel();
            answer(404)
        })
        .await;
        let (gateway, _tokens) = gateway(&"http://gateway.invalid/".parse().unwrap()).await;
        let patience = Patience::new(Duration::from_secs(500));
        let urls = [down.url.clone()];
        let error = wait(&urls, &gateway, &Trust::System, patience, &cancel).await.unwrap_err();
        assert!(matches!(error, Error::Cancelled));
    }
}
