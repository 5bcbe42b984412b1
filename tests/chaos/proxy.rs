//! A proxy that asks a [`Director`] at every request what is to become of it.
//!
//! A request that was passed on is carried out, also when its client has gone: so it is in a network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::director::{Director, Order};
use crate::fault::{self, Fault};
use crate::label::label;

/// Which service a proxy stands before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    Ims,
    S3,
}

impl Service {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ims => "ims",
            Self::S3 => "s3",
        }
    }
}

/// Answers instead of the service, where it wants to.
pub type Hook = dyn Fn(&Parts, &Bytes) -> Option<Response> + Send + Sync;

pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    service: Service,
    upstream: String,
    base: String,
    http: reqwest::Client,
    hook: Box<Hook>,
    director: Arc<Director>,
    /// Requests that the service has not answered.
    busy: AtomicUsize,
    refusing: watch::Sender<bool>,
}

impl Proxy {
    /// `upstream` is the URL of the service, and the token that it wants of IMS clients; `base` the image
    /// that the job starts from.
    pub async fn start(
        service: Service,
        (upstream, token): (&str, Option<String>),
        base: &str,
        director: Arc<Director>,
        hook: Box<Hook>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // A signature of S3 is what a request has already.
        let token = token.map(|token| format!("Bearer {token}").parse().unwrap());
        let headers = token.map(|token| (header::AUTHORIZATION, token)).into_iter().collect();
        let http = reqwest::Client::builder().default_headers(headers).build().unwrap();
        let shared = Arc::new(Shared {
            service,
            upstream: upstream.trim_end_matches('/').to_owned(),
            base: base.to_owned(),
            http,
            hook,
            director,
            busy: AtomicUsize::new(0),
            refusing: watch::Sender::new(false),
        });
        let serving = tokio::spawn(serve(listener, shared.clone()));
        Self { address, shared, serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests that were passed on and not answered yet.
    pub fn busy(&self) -> usize {
        self.shared.busy.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Accepts connections, but for the times in which they are refused.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let address = listener.local_addr().unwrap();
    let mut refusing = shared.refusing.subscribe();
    let mut listener = Some(listener);
    // Its end is the end of every connection.
    let mut connections = JoinSet::new();
    loop {
        let Some(open) = &listener else {
            connections.shutdown().await;
            let _ = refusing.wait_for(|refusing| !refusing).await;
            listener = Some(TcpListener::bind(address).await.unwrap());
            continue;
        };
        tokio::select! {
            accepted = open.accept() => {
                let (socket, _) = accepted.unwrap();
                connections.spawn(connection(socket, shared.clone()));
            }
            _ = refusing.wait_for(|refusing| *refusing) => listener = None,
        }
    }
}

#[derive(Clone)]
struct Link {
    shared: Arc<Shared>,
    /// Ends the connection without another byte.
    hang_up: CancellationToken,
}

async fn connection(socket: tokio::net::TcpStream, shared: Arc<Shared>) {
    let hang_up = CancellationToken::new();
    let link = Link { shared, hang_up: hang_up.clone() };
    let router = Router::new().fallback(handle).with_state(link);
    let builder = Builder::new(TokioExecutor::new());
    let serving = builder
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(router))
        .into_owned();
    tokio::select! {
        // A client may hang up whenever it wants.
        _ = serving => {}
        () = hang_up.cancelled() => {}
    }
}

async fn handle(State(link): State<Link>, request: Request) -> Response {
    let Link { shared, hang_up } = link;
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let label = label(shared.service, &parts, &body, &shared.base);
    let (order, nth) = shared.director.asked(shared.service, &label);
    match order {
        Order::Pass => shared.carry_out(parts, body).await,
        Order::StopBefore => {
            shared.director.stopped().await;
            shared.carry_out(parts, body).await
        }
        Order::StopAfter => {
            let answer = shared.carry_out(parts, body).await;
            shared.director.stopped().await;
            answer
        }
        Order::Fault(Fault::Refused) => {
            shared.refuse(nth);
            std::future::pending().await
        }
        Order::Fault(Fault::Hang) => std::future::pending().await,
        Order::Fault(Fault::Lost) => {
            shared.carry_out(parts, body).await;
            hang_up.cancel();
            std::future::pending().await
        }
        Order::Fault(fault) => match fault::instead(fault, shared.service) {
            Some(answer) => answer,
            None => {
                let answer = shared.carry_out(parts, body).await;
                fault::spoilt(fault, answer, shared.director.healed()).await
            }
        },
    }
}

impl Shared {
    /// Nobody listens for a while, or until all is healed.
    fn refuse(self: &Arc<Self>, times: Option<usize>) {
        self.refusing.send_replace(true);
        let shared = self.clone();
        tokio::spawn(async move {
            let healed = shared.director.healed();
            match times {
                Some(times) => {
                    let pause = Duration::from_millis(600 * times as u64);
                    let _ = tokio::time::timeout(pause, healed.cancelled()).await;
                }
                None => healed.cancelled().await,
            }
            shared.refusing.send_replace(false);
        });
    }

    async fn carry_out(self: &Arc<Self>, parts: Parts, body: Bytes) -> Response {
        self.busy.fetch_add(1, Ordering::SeqCst);
        let shared = self.clone();
        let work = tokio::spawn(async move {
            let answer = match (shared.hook)(&parts, &body) {
                Some(answer) => answer,
                None => shared.pass_on(parts, body).await,
            };
            shared.busy.fetch_sub(1, Ordering::SeqCst);
            answer
        });
        work.await.expect("the proxy does not panic")
    }

    async fn pass_on(&self, parts: Parts, body: Bytes) -> Response {
        let url = format!("{}{}", self.upstream, parts.uri);
        let request = self.http.request(parts.method, url).headers(parts.headers).body(body);
        let Ok(answer) = request.send().await else {
            return StatusCode::BAD_GATEWAY.into_response();
        };
        let (status, headers) = (answer.status(), end_to_end(answer.headers()));
        match answer.bytes().await {
            Ok(bytes) => (status, headers, Body::from(bytes)).into_response(),
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    }
}

fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    headers.remove(header::TRANSFER_ENCODING);
    headers
}
