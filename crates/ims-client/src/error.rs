//! Why a request to IMS failed, with the problem that IMS reports.

use serde::Deserialize;
use serde_json::{Map, Value};

use net::{Failure, body, trust};

/// Why IMS did not do what it was asked for.
#[allow(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{request}: IMS answered {status} {problem}")]
    Refused { request: String, status: u16, problem: String },
    #[error("{request}: no response from IMS")]
    Unanswered { request: String, source: reqwest::Error },
    #[error("{request}: cannot read the response of IMS")]
    Body { request: String, source: body::Error },
    #[error("{request}: the response of IMS is not the record")]
    NotARecord { request: String, source: serde_json::Error },
    #[error("the token endpoint {endpoint} answered {status} {problem}")]
    TokenRefused { endpoint: String, status: u16, problem: String },
    #[error("no response from the token endpoint {endpoint}")]
    TokenUnanswered { endpoint: String, source: reqwest::Error },
    #[error("cannot read the token file {path}")]
    TokenFile { path: std::path::PathBuf, source: std::io::Error },
    #[error("the token endpoint {endpoint} returned no usable token")]
    NotAToken { endpoint: String },
    #[error("{0} cannot be the base URL of IMS")]
    BadBase(String),
    #[error("cannot set up the client of IMS")]
    Trust(#[from] trust::Error),
    #[error("cancelled before IMS responded")]
    Cancelled,
}

/// Transient statuses: an overloaded or failing service, a gateway in front of one that restarts.
fn passes(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502..=504)
}

impl Error {
    /// True if the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Refused { status, .. } | Error::TokenRefused { status, .. } => passes(*status),
            Error::Unanswered { source, .. } | Error::TokenUnanswered { source, .. } => {
                !source.is_builder() && !trust::is_untrusted(source)
            }
            Error::Body { source, .. } => matches!(source, body::Error::Broken(_)),
            _ => false,
        }
    }

    /// True if the site can repair the cause: credentials, certificates, the service itself.
    pub fn is_repairable(&self) -> bool {
        !matches!(self, Error::BadBase(_) | Error::Cancelled)
    }

    /// True if the request may have been executed without a response.
    pub fn is_ambiguous(&self) -> bool {
        match self {
            Error::Refused { status, .. } => passes(*status),
            Error::Unanswered { source, .. } => !source.is_connect() && !source.is_builder(),
            Error::Body { .. } | Error::NotARecord { .. } => true,
            _ => false,
        }
    }

    /// The HTTP status of the answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        match self {
            Error::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl From<Failure<Error>> for Error {
    fn from(failure: Failure<Error>) -> Self {
        match failure {
            Failure::Gave(error) => error,
            Failure::Cancelled => Error::Cancelled,
        }
    }
}

/// `application/problem+json` (RFC 9457) with the `errors` IMS adds.
#[derive(Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    /// What flask answers before IMS sees the request.
    message: Option<String>,
    #[serde(default)]
    errors: Map<String, Value>,
}

/// The longest part of an answer that is not a problem document which an error repeats.
const EXCERPT_CHARS: usize = 200;

/// What an error answer says, on one line.
pub(super) fn problem_text(body: &[u8]) -> String {
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        let text = String::from_utf8_lossy(body);
        return text
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .chars()
            .take(EXCERPT_CHARS)
            .collect();
    };
    let words = [problem.title, problem.detail, problem.message];
    let mut text = words.into_iter().flatten().collect::<Vec<_>>().join(": ");
    for (field, errors) in &problem.errors {
        let errors = match errors {
            Value::Array(errors) => errors.iter().map(plain).collect::<Vec<_>>().join(", "),
            other => plain(other),
        };
        text.push_str(&format!("; {field}: {errors}"));
    }
    text
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::problem_text;

    #[test]
    fn title_detail_and_errors_are_told() {
        let body =
            br#"{"status":422,"title":"Unprocessable Entity","detail":"Input data is wrong.",
            "errors":{"status":["Job status must be one of a, b."],"x":"odd"}}"#;
        assert_eq!(
            problem_text(body),
            "Unprocessable Entity: Input data is wrong.; status: Job status must be one of a, b.; x: odd"
        );
        assert_eq!(problem_text(br#"{"message":"Failed to decode"}"#), "Failed to decode");
    }

    #[test]
    fn other_answers_are_told_in_part() {
        assert_eq!(problem_text(b"<html>\n upstream  gone</html>"), "<html> upstream gone</html>");
        assert_eq!(problem_text(&[b'x'; 5000]).len(), 200);
    }
}
