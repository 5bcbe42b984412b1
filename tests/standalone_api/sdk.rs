//! The AWS SDK as its users have it: default checksums, retries and all.

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Region};
use aws_sdk_s3::error::SdkError;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;

use crate::support::{ACCESS, SECRET, Standalone};

#[derive(Debug, Clone)]
struct Http(reqwest::Client);

impl HttpClient for Http {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Http {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().unwrap().map(reqwest::Body::wrap);
            let request = reqwest::Request::try_from(request).unwrap();
            let failed = |error: reqwest::Error| ConnectorError::io(error.into());
            let answer = client.execute(request).await.map_err(failed)?;
            let answer = http::Response::from(answer).map(SdkBody::from_body_1_x);
            Ok(HttpResponse::try_from(answer).unwrap())
        })
    }
}

pub fn client(standalone: &Standalone) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(Http(reqwest::Client::new()))
        .endpoint_url(standalone.s3.as_str())
        .region(Region::new("default"))
        .credentials_provider(Credentials::new(ACCESS, SECRET, None, None, "test"))
        .force_path_style(true)
        .build();
    Client::from_conf(config)
}

/// The HTTP status of an operation that must fail.
pub fn status<T: std::fmt::Debug, E>(result: Result<T, SdkError<E, HttpResponse>>) -> u16 {
    match result {
        Ok(answer) => panic!("not refused: {answer:?}"),
        Err(error) => error.raw_response().expect("an answer").status().as_u16(),
    }
}
