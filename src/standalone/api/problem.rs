//! Error responses: `application/problem+json` (RFC 7807) as IMS writes it, and the plain `message`
//! objects of its web framework for requests that never reach it.

use std::path::Path;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::standalone::{database, records};
use crate::telemetry::chain;
use s3_client as s3;

/// What a request is refused with.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    status: StatusCode,
    body: Value,
    /// `application/problem+json` rather than `application/json`.
    problem_type: bool,
}

pub type Result<T> = std::result::Result<T, Problem>;

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        let body = json!({ "status": status.as_u16(), "title": title, "detail": detail.into() });
        Self { status, body, problem_type: true }
    }

    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "There is no such resource. Check the id and the URL.")
    }

    pub fn missing_input() -> Self {
        Self::bad_request("The request body is empty. Send a JSON object with the fields to set.")
    }

    /// Faults of a body, by field.
    pub fn invalid(errors: Map<String, Value>) -> Self {
        let mut problem = Self::unprocessable("Some fields are not valid; errors says which.");
        problem.body["errors"] = Value::Object(errors);
        problem
    }

    /// A query that cannot be understood: IMS says why in the title and gives no detail.
    pub fn bad_filter(title: String) -> Self {
        let status = StatusCode::BAD_REQUEST;
        let body = json!({ "status": status.as_u16(), "title": title });
        Self { status, body, problem_type: true }
    }

    /// What the web framework of IMS says by itself.
    pub fn message(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, body: json!({ "message": message.into() }), problem_type: false }
    }

    pub fn method_not_allowed() -> Self {
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let mut problem = Self::new(status, "This resource does not take this method.");
        problem.body["message"] = json!("This resource does not take this method.");
        problem.problem_type = false;
        problem
    }

    /// A failure of this program or of its stores; logged here.
    pub fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = %chain(error), "an IMS request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, chain(error))
    }
}

impl Problem {
    /// There is no room for what was to be stored; nothing was changed.
    fn no_space(detail: String) -> Self {
        tracing::error!(detail, "an IMS request failed");
        Self::new(StatusCode::INSUFFICIENT_STORAGE, detail)
    }

    /// A failure to read or write `directory`.
    pub fn disk(error: &std::io::Error, directory: &Path) -> Self {
        if database::is_full(error) {
            return Self::no_space(format!("no space left on {}", directory.display()));
        }
        Self::internal(error)
    }
}

impl From<s3::Error> for Problem {
    fn from(error: s3::Error) -> Self {
        if error.is_out_of_space() {
            return Self::no_space(chain(&error));
        }
        Self::internal(&error)
    }
}

impl From<records::Error> for Problem {
    fn from(error: records::Error) -> Self {
        match error.full() {
            Some(directory) => Self::no_space(format!("no space left on {}", directory.display())),
            None if error.is_passing() => Self::new(StatusCode::SERVICE_UNAVAILABLE, chain(&error)),
            None => Self::internal(&error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if self.problem_type {
            let value = header::HeaderValue::from_static("application/problem+json");
            response.headers_mut().insert(header::CONTENT_TYPE, value);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let value = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

/// 204 as IMS responds: without a body, but with a content type.
pub fn no_content() -> Response {
    (StatusCode::NO_CONTENT, [(header::CONTENT_TYPE, "application/json")]).into_response()
}
