//! Extractors: ids of the path, JSON bodies.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::{StatusCode, header, request::Parts};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use super::Shared;
use super::problem::{Problem, Result};
use super::schema::{self, Field};

/// The id at the end of a path; what is no UUID names nothing.
pub struct Id(pub Uuid);

impl FromRequestParts<Shared> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Shared) -> Result<Self> {
        let Path(text) = Path::<String>::from_request_parts(parts, app)
            .await
            .map_err(|_| Problem::not_found())?;
        Uuid::parse_str(&text).map(Id).map_err(|_| Problem::not_found())
    }
}

/// A body that is JSON; its fields are still to be checked.
pub struct Input(Value);

impl FromRequest<Shared> for Input {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Shared) -> Result<Self> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        if !kind.and_then(|kind| kind.to_str().ok()).is_some_and(is_json) {
            return Err(Problem::message(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body must be JSON, sent with Content-Type: application/json.",
            ));
        }
        let bytes = Bytes::from_request(request, app).await.map_err(|error| {
            Problem::message(error.status(), format!("The body cannot be read: {error}."))
        })?;
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            Problem::message(StatusCode::BAD_REQUEST, format!("The body is not JSON: {error}."))
        })?;
        Ok(Self(value))
    }
}

impl Input {
    /// The body as `T`, whose fields `fields` describes.
    pub fn read<T: DeserializeOwned>(self, fields: &[Field]) -> Result<T> {
        if is_empty(&self.0) {
            return Err(Problem::missing_input());
        }
        let values = schema::check(fields, &self.0).map_err(Problem::invalid)?;
        serde_json::from_value(Value::Object(values)).map_err(|error| Problem::internal(&error))
    }
}

/// `application/json` and related types, with any parameters.
fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// What Python takes for false: IMS asks for input then.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}
