//! How a request fails, and what the answer looks like then.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use tokio_util::sync::CancellationToken;

use crate::proxy::Service;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answered so, and not passed on.
    Status(u16),
    /// Neither passed on nor answered.
    Hang,
    /// Carried out; the connection ends in the middle of the answer.
    Cut,
    /// Carried out; the connection ends before the answer.
    Lost,
    /// Carried out; the answer comes a byte a second.
    Trickle,
    /// Carried out; the answer names another etag.
    WrongEtag,
    /// Carried out; half of the answer's body is missing, and its length says nothing of it.
    Truncated,
    /// Status 200, with an error in the body; not passed on.
    ErrorDocument,
    /// Status 200, with a page of some gateway in the body; not passed on.
    Garbage,
    /// The connection breaks, and nobody listens for a while.
    Refused,
}

/// Every fault and its name in the names of points.
pub const ALL: [(Fault, &str); 20] = [
    (Fault::Status(400), "400"),
    (Fault::Status(401), "401"),
    (Fault::Status(403), "403"),
    (Fault::Status(404), "404"),
    (Fault::Status(409), "409"),
    (Fault::Status(422), "422"),
    (Fault::Status(429), "429"),
    (Fault::Status(500), "500"),
    (Fault::Status(502), "502"),
    (Fault::Status(503), "503"),
    (Fault::Status(507), "507"),
    (Fault::Hang, "hang"),
    (Fault::Cut, "cut"),
    (Fault::Lost, "lost"),
    (Fault::Trickle, "trickle"),
    (Fault::WrongEtag, "etag"),
    (Fault::Truncated, "truncated"),
    (Fault::ErrorDocument, "errordoc"),
    (Fault::Garbage, "garbage"),
    (Fault::Refused, "refused"),
];

impl Fault {
    /// Whether a request of this label can fail so.
    pub fn fits(self, label: &str) -> bool {
        let s3 = label.starts_with("s3.");
        match self {
            Self::WrongEtag | Self::ErrorDocument => s3 && !label.contains(".DELETE."),
            Self::Garbage => !s3,
            Self::Truncated => !label.contains(".HEAD.") && !label.contains(".DELETE."),
            _ => true,
        }
    }
}

/// The answer of a request that is not passed on.
pub fn instead(fault: Fault, service: Service) -> Option<Response> {
    let answer = match (fault, service) {
        (Fault::Status(status), Service::S3) => xml(status, error_document(status)),
        (Fault::Status(status), Service::Ims) => problem(status),
        (Fault::ErrorDocument, _) => xml(200, error_document(500)),
        (Fault::Garbage, _) => {
            let page = "<html><body>Welcome to the gateway</body></html>";
            (StatusCode::OK, [(header::CONTENT_TYPE, "text/html")], page).into_response()
        }
        _ => return None,
    };
    Some(answer)
}

fn xml(status: u16, body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, [(header::CONTENT_TYPE, "application/xml")], body).into_response()
}

fn problem(status: u16) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    let body = format!(
        r#"{{"status": {}, "title": "{status}", "detail": "made up by the chaos run"}}"#,
        status.as_u16()
    );
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
}

/// What a store says with the status.
fn error_document(status: u16) -> String {
    let code = match status {
        400 => "InvalidRequest",
        401 => "InvalidAccessKeyId",
        403 => "AccessDenied",
        404 => "NoSuchBucket",
        409 => "OperationAborted",
        422 => "UnprocessableEntity",
        429 => "TooManyRequests",
        503 => "SlowDown",
        507 => "InsufficientCapacity",
        _ => "InternalError",
    };
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>made up by the \
         chaos run</Message><RequestId>1</RequestId></Error>"
    )
}

/// The answer of a request that was carried out, as the client gets it.
pub async fn spoilt(fault: Fault, answer: Response, healed: CancellationToken) -> Response {
    let (mut parts, body) = answer.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    let half = bytes.slice(..bytes.len() / 2);
    let body = match fault {
        Fault::Cut => {
            parts.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
            let broken = Err(std::io::Error::other("cut by the test"));
            Body::from_stream(stream::iter([Ok(half), broken]))
        }
        Fault::Truncated => {
            parts.headers.remove(header::CONTENT_LENGTH);
            Body::from(half)
        }
        Fault::Trickle => {
            parts.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
            trickle(bytes, healed)
        }
        Fault::WrongEtag => {
            if parts.headers.contains_key(header::ETAG) {
                parts.headers.insert(header::ETAG, OTHER.parse().unwrap());
            }
            parts.headers.remove(header::CONTENT_LENGTH);
            Body::from(other_etag(bytes))
        }
        fault => unreachable!("{fault:?} is no fault of an answer"),
    };
    Response::from_parts(parts, body)
}

const OTHER: &str = "\"0123456789abcdef0123456789abcdef\"";

/// The etag in an XML body, replaced.
fn other_etag(bytes: Bytes) -> Bytes {
    let text = String::from_utf8_lossy(&bytes);
    match (text.find("<ETag>"), text.find("</ETag>")) {
        (Some(start), Some(end)) if start < end => {
            format!("{}<ETag>{OTHER}{}", &text[..start], &text[end..]).into()
        }
        _ => bytes,
    }
}

/// A byte a second until all is healed, then the rest at once.
fn trickle(bytes: Bytes, healed: CancellationToken) -> Body {
    let stream = stream::unfold((bytes, healed), |(mut bytes, healed)| async {
        if bytes.is_empty() {
            return None;
        }
        let limit = Duration::from_secs(1);
        let size = match tokio::time::timeout(limit, healed.cancelled()).await {
            Ok(()) => bytes.len(),
            Err(_) => 1,
        };
        let piece = bytes.split_to(size);
        Some((Ok::<_, std::io::Error>(piece), (bytes, healed)))
    });
    Body::from_stream(stream)
}
