//! Connections of the API and of the S3 endpoint, with the limits that a public server needs:
//! number of connections, idle time, minimum rate of a body, and allowed host names.

mod connections;
mod hosts;
mod paced;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use connections::{Connection, Connections};
pub use hosts::{Hosts, machine_name};
use linux::service;
use paced::Paced;

/// The first request of a connection must be there by then.
const FIRST: Duration = Duration::from_secs(10);
/// A connection without a request in progress is closed after this.
const IDLE: Duration = Duration::from_secs(60);
/// How often failures to accept are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Pause after one: out of file descriptors, most likely, and asking again at once would only spin.
const PAUSE: Duration = Duration::from_millis(100);
/// Files that are not connections: databases, blobs, pipes of children.
const OTHER_FILES: u64 = 256;
/// Maximum number of connections of one listener, regardless of the limit of open files.
const MOST: u64 = 4096;
const FEWEST: u64 = 32;

/// Something that listens, and what answers there.
pub struct Front {
    /// As messages call it.
    pub what: &'static str,
    pub listener: TcpListener,
    pub router: Router,
    pub hosts: Hosts,
    /// How long requests in progress may continue at the end.
    pub grace: Duration,
}

impl Front {
    /// Serves until `shutdown`, and a while longer what is in progress then.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Self { what, listener, router, hosts, grace } = self;
        let connections = Connections::new(most());
        let (hosts, tasks) = (Arc::new(hosts), TaskTracker::new());
        let mut failures = Failures::default();
        loop {
            let accepted = tokio::select! {
                _ = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    // None: everybody is busy, and the caller may try again.
                    let Some(connection) = connections.enter(from.ip()) else { continue };
                    let answer = (router.clone(), hosts.clone());
                    tasks.spawn(run(stream, connection, answer, shutdown.clone()));
                }
                Err(error) => {
                    failures.count(what, &error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        drop(listener);
        tasks.close();
        if tokio::time::timeout(grace, tasks.wait()).await.is_err() {
            tracing::warn!(what, "standalone ended before these requests were complete");
        }
    }
}

/// A third of the files that may be open is for the connections of one listener; there are two.
fn most() -> usize {
    let files = service::open_files().unwrap_or(1024);
    let most = (files.saturating_sub(OTHER_FILES) / 3).clamp(FEWEST, MOST);
    usize::try_from(most).unwrap_or(usize::MAX)
}

async fn run(
    stream: TcpStream,
    connection: Connection,
    (router, hosts): (Router, Arc<Hosts>),
    shutdown: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let (router, hosts, busy) = (router.clone(), hosts.clone(), connection.busy());
        async move {
            let request: Request = request.map(|body| Body::new(Paced::new(body)));
            let response: Response = match hosts.check(&request) {
                Ok(()) => router.call(request).await?,
                Err(problem) => problem.into_response(),
            };
            // Until its last byte the answer is in progress.
            Ok::<_, Infallible>(response.map(|body| busy.until_the_end_of(body)))
        }
    });
    let mut builder = http1::Builder::new();
    // For what comes after the first request as well: hyper counts from when it waits for one.
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let silent = async {
        tokio::time::sleep(FIRST).await;
        if connection.has_asked() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = silent => return,
        () = connection.evicted() => return,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Failures to accept: counted, and logged once in a while.
#[derive(Default)]
struct Failures {
    unlogged: u64,
    logged: Option<Instant>,
}

impl Failures {
    fn count(&mut self, what: &str, error: &std::io::Error) {
        self.unlogged += 1;
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            tracing::warn!(what, %error, times = self.unlogged, "cannot accept connections");
            (self.unlogged, self.logged) = (0, Some(Instant::now()));
        }
    }
}
