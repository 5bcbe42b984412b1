//! An HTTP connector of the SDK that uses our own client, so that there is one TLS stack and one
//! `net::Trust`.
//!
//! Bodies stream both ways. Nothing is logged here: requests carry keys and signatures in headers and
//! presigned queries.

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderValue, Method};

use net::body::read_limited;

/// A `reqwest` client as the SDK sees it.
#[derive(Debug, Clone)]
pub(super) struct Connector(pub reqwest::Client);

impl HttpClient for Connector {
    /// The SDK's timeouts are off: those of the client hold.
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move {
            let request = outgoing(request)?;
            let is_object = request.url().query().is_some_and(|query| query.contains(GET_OBJECT));
            let response = client.execute(request).await.map_err(failed)?;
            if is_object { incoming(response) } else { document(response).await }
        })
    }
}

/// What the SDK adds to the query of a request for an object.
const GET_OBJECT: &str = "x-id=GetObject";

/// A list of a thousand objects is some 400 KiB.
const LONGEST_DOCUMENT: usize = 16 << 20;

/// An answer that must be whole: of a list that a gateway has cut off, the SDK takes what is there for all.
async fn document(response: reqwest::Response) -> Result<HttpResponse, ConnectorError> {
    let mut head = http::Response::new(());
    *head.status_mut() = response.status();
    *head.headers_mut() = response.headers().clone();
    let text = read_limited(response, LONGEST_DOCUMENT).await;
    let text = text.map_err(|error| ConnectorError::io(error.into()))?;
    if !is_whole(&text) {
        return Err(ConnectorError::io("the answer of the store is cut off".into()));
    }
    let response = head.map(|()| SdkBody::from(text));
    HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
}

/// Whether an XML document ends with the end of its first element. Other texts are as long as they are.
fn is_whole(text: &[u8]) -> bool {
    let text = text.trim_ascii();
    let Some(element) = text
        .split(|byte| *byte == b'<')
        .find(|part| part.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_'))
    else {
        return !text.starts_with(b"<");
    };
    if !text.starts_with(b"<") || (element.ends_with(b"/>") && text.ends_with(element)) {
        return true;
    }
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.:".contains(byte);
    let name = element.split(|byte| !is_of_name(byte)).next().unwrap_or_default();
    text.ends_with(&[b"</", name, b">"].concat())
}

fn outgoing(request: HttpRequest) -> Result<reqwest::Request, ConnectorError> {
    let mut request =
        request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
    if request.method() == Method::PUT && request.body().bytes().is_some_and(<[u8]>::is_empty) {
        // A copy has no body, and Ceph refuses a PUT that does not say so (411).
        request.headers_mut().entry(CONTENT_LENGTH).or_insert(HeaderValue::from_static("0"));
    }
    let request = request.map(request_body);
    reqwest::Request::try_from(request)
        .map_err(|error| ConnectorError::user(error.without_url().into()))
}

fn request_body(body: SdkBody) -> reqwest::Body {
    match body.bytes() {
        Some(bytes) => Bytes::copy_from_slice(bytes).into(),
        None => reqwest::Body::wrap(body),
    }
}

fn incoming(response: reqwest::Response) -> Result<HttpResponse, ConnectorError> {
    let response = http::Response::from(response).map(SdkBody::from_body_1_x);
    HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
}

/// Sorts a failure for the SDK. The URL goes: a presigned one is as good as a password.
fn failed(error: reqwest::Error) -> ConnectorError {
    let error = error.without_url();
    if error.is_timeout() {
        ConnectorError::timeout(error.into())
    } else if error.is_builder() {
        ConnectorError::user(error.into())
    } else {
        ConnectorError::io(error.into())
    }
}

#[cfg(test)]
mod tests {
    use super::is_whole;

    #[test]
    fn a_document_that_is_cut_off_anywhere_is_not_whole() {
        let list = "<?xml version=\"1.0\"?>\n<List xmlns=\"x\"><Key>a</Key><Key>b</Key></List>\n";
        assert!(is_whole(list.as_bytes()));
        for end in 1..list.trim_end().len() {
            assert!(!is_whole(&list.as_bytes()[..end]), "{}", &list[..end]);
        }
        assert!(is_whole(b"") && is_whole(b"no XML") && is_whole(b"<List/>"));
    }
}
