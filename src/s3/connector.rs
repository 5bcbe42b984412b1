//! An HTTP connector of the SDK that uses our own client, so that there is one TLS stack and one
//! `net::Trust`.
//!
//! Used by `store` alone. Bodies stream both ways. Nothing is logged here: requests carry keys and
//! signatures in headers and presigned queries.

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
            let response = client.execute(request).await.map_err(failed)?;
            incoming(response)
        })
    }
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
