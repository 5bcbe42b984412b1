//! A small S3 server for tests (s3s-fs in a temporary directory) that fails on demand.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio_util::sync::CancellationToken;

use super::{Config, Store};
use net::testing::{QUICK, Seen, Server};
use net::{Policy, Trust};

/// The bucket that is there from the start.
pub const BUCKET: &str = "boot-images";

/// What happens to a request.
pub enum Fault {
    /// Carried out and answered.
    None,
    /// Answered so, and not carried out.
    Refused(Response),
    /// Carried out, but answered so.
    Lost(Response),
    /// Neither carried out nor answered.
    Hang,
}

/// The server and a client of it.
pub struct Lab {
    /// Sees the requests.
    pub server: Server,
    /// A client that tries again soon.
    pub store: Store,
    _data: tempfile::TempDir,
}

impl Lab {
    /// `fault` gets the number of the request, from 0, and the request.
    pub async fn start(fault: impl Fn(usize, &Seen) -> Fault + Send + Sync + 'static) -> Self {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join(BUCKET)).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(data.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single("access", "secret"));
        let (service, fault) = (builder.build(), Arc::new(fault));
        let server = Server::start_async(move |number, seen| {
            let (service, fault) = (service.clone(), fault.clone());
            Box::pin(async move {
                match fault(number, &seen) {
                    Fault::None => carry_out(&service, seen).await,
                    Fault::Refused(response) => response,
                    Fault::Hang => std::future::pending().await,
                    Fault::Lost(response) => {
                        carry_out(&service, seen).await;
                        response
                    }
                }
            })
        })
        .await;
        let store = store(&server, Duration::from_secs(20)).with_policy(QUICK);
        Self { server, store, _data: data }
    }

    /// A client with the rules of a site that waits for `timeout`.
    pub fn store_within(&self, timeout: Duration) -> Store {
        store(&self.server, timeout).with_policy(Policy::within(timeout))
    }

    /// The keys in the bucket.
    pub async fn keys(&self) -> Vec<String> {
        self.store.list(BUCKET, "", &CancellationToken::new()).await.unwrap()
    }
}

fn store(server: &Server, timeout: Duration) -> Store {
    let config = Config {
        endpoint: server.url.clone(),
        access_key: "access".to_owned(),
        secret_key: "secret".into(),
        trust: Trust::System,
        timeout,
    };
    Store::new(config).unwrap()
}

async fn carry_out(service: &S3Service, seen: Seen) -> Response {
    let mut request = http::Request::new(s3s::Body::from(seen.body));
    *request.method_mut() = seen.method;
    *request.uri_mut() = seen.uri;
    *request.headers_mut() = seen.headers;
    service.call(request).await.unwrap().map(Body::new)
}
