//! One request to IMS: authorized, with a bounded response and readable errors.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use super::error::{Error, problem_text};
use super::oauth::Tokens;
use net::body;
use net::redact;

/// The longest answer: a list of all images of a large site fits many times.
const ANSWER_LIMIT: usize = 64 << 20;

/// Sends requests as one client. No retries here but the one after a 401.
#[derive(Debug)]
pub(super) struct Sender {
    pub http: reqwest::Client,
    pub tokens: Option<Tokens>,
}

/// A request that can be sent again.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub method: Method,
    pub url: Url,
    pub body: Option<Value>,
}

/// A success: the body, and when the server says that it was (RFC 9110 `Date`).
pub(super) struct Answer {
    pub body: Vec<u8>,
    pub date: Option<jiff::Timestamp>,
}

impl Request {
    /// The request as errors name it.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.method, redact::url(&self.url))
    }

    pub(super) fn record<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, Error> {
        serde_json::from_slice(&answer.body).map_err(|source| self.not_a_record(source))
    }

    /// A record that came as part of another answer.
    pub(super) fn parse<T: DeserializeOwned>(&self, record: Value) -> Result<T, Error> {
        serde_json::from_value(record).map_err(|source| self.not_a_record(source))
    }

    fn not_a_record(&self, source: serde_json::Error) -> Error {
        Error::NotARecord { request: self.name(), source }
    }
}

impl Sender {
    /// Sends the request; a refused token is replaced and the request sent once more. Each answer may
    /// take `limit`.
    pub(super) async fn send(&self, request: &Request, limit: Duration) -> Result<Answer, Error> {
        let Some(tokens) = &self.tokens else {
            return self.send_as(request, None, limit).await;
        };
        let token = tokens.get(limit).await?;
        match self.send_as(request, Some(token.expose_secret()), limit).await {
            Err(Error::Refused { status: 401, .. }) => {
                tokens.refused(&token).await;
                let token = tokens.get(limit).await?;
                self.send_as(request, Some(token.expose_secret()), limit).await
            }
            answer => answer,
        }
    }

    async fn send_as(
        &self,
        request: &Request,
        token: Option<&str>,
        limit: Duration,
    ) -> Result<Answer, Error> {
        let builder = self.http.request(request.method.clone(), request.url.clone());
        let mut builder = builder.timeout(limit);
        if let Some(token) = token {
            builder = builder.bearer_auth(token);
        }
        if let Some(body) = &request.body {
            builder = builder.json(body);
        }
        let response = builder.send().await.map_err(|error| Error::Unanswered {
            request: request.name(),
            source: error.without_url(),
        })?;
        let status = response.status();
        let date = date(&response);
        let body = body::read_limited(response, ANSWER_LIMIT)
            .await
            .map_err(|source| Error::Body { request: request.name(), source })?;
        if status.is_success() {
            return Ok(Answer { body, date });
        }
        Err(Error::Refused {
            request: request.name(),
            status: status.as_u16(),
            problem: explained(status, &body),
        })
    }
}

fn explained(status: StatusCode, body: &[u8]) -> String {
    match problem_text(body) {
        text if text.is_empty() => status.canonical_reason().unwrap_or_default().to_owned(),
        text => text,
    }
}

fn date(response: &reqwest::Response) -> Option<jiff::Timestamp> {
    let header = response.headers().get(reqwest::header::DATE)?.to_str().ok()?;
    Some(jiff::fmt::rfc2822::parse(header).ok()?.timestamp())
}
