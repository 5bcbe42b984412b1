//! A scripted HTTP server for tests: a closure creates the responses; requests are recorded.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use futures::future::BoxFuture;
use url::Url;

use super::Policy;

/// Quick enough for tests that wait for real.
pub const QUICK: Policy = Policy {
    attempts: 4,
    first_pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(4),
    deadline: Duration::from_secs(20),
    answer: Duration::from_secs(20),
};

/// A request as the server saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The verb.
    pub method: http::Method,
    /// Path and query.
    pub uri: http::Uri,
    /// All headers.
    pub headers: http::HeaderMap,
    /// All of the body.
    pub body: Bytes,
}

impl Seen {
    /// `METHOD /path`, without the query.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.uri.path())
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The query, or nothing.
    pub fn query(&self) -> &str {
        self.uri.query().unwrap_or_default()
    }
}

/// Ends with the test's runtime.
pub struct Server {
    /// Where it listens.
    pub url: Url,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Serves on a free port. `answer` gets the number of the request, from 0, and the request.
    pub async fn start(answer: impl Fn(usize, Seen) -> Response + Send + Sync + 'static) -> Self {
        Self::start_async(move |number, seen| {
            let response = answer(number, seen);
            Box::pin(async move { response })
        })
        .await
    }

    /// The same with an answer that takes its time.
    pub async fn start_async(
        answer: impl Fn(usize, Seen) -> BoxFuture<'static, Response> + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (log, answer) = (seen.clone(), Arc::new(answer));
        let router = axum::Router::new().fallback(move |request: Request| {
            let (log, answer) = (log.clone(), answer.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
                let seen =
                    Seen { method: parts.method, uri: parts.uri, headers: parts.headers, body };
                let number = {
                    let mut log: std::sync::MutexGuard<'_, Vec<Seen>> = log.lock().unwrap();
                    log.push(seen.clone());
                    log.len() - 1
                };
                answer(number, seen).await
            }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, seen }
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// `METHOD /path` of every request so far.
    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }
}

/// An answer with a status and a body.
pub fn answer(status: u16, body: impl Into<Body>) -> Response {
    Response::builder().status(status).body(body.into()).unwrap()
}

/// An answer with a document.
pub fn json(status: u16, body: serde_json::Value) -> Response {
    answer(status, body.to_string())
}

/// A body of which a byte comes now and then.
pub fn trickle(bytes: impl Into<Bytes>) -> Body {
    let bytes = bytes.into();
    Body::from_stream(futures::stream::unfold(bytes, |mut bytes| async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        (!bytes.is_empty()).then(|| (Ok::<_, std::io::Error>(bytes.split_to(1)), bytes))
    }))
}

/// A body that is interrupted after `bytes`: the connection is reset before the rest comes.
pub fn cut_off(bytes: impl Into<Bytes>) -> Body {
    let bytes = bytes.into();
    Body::from_stream(futures::stream::unfold(Some(bytes), |bytes| async {
        let bytes = bytes?;
        if !bytes.is_empty() {
            return Some((Ok(bytes), Some(Bytes::new())));
        }
        // While this waits, the server sends what it has.
        tokio::task::yield_now().await;
        Some((Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)), None))
    }))
}

/// openssl, in a directory, and silent.
pub fn openssl(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command.args(arguments).current_dir(directory);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// An HTTPS server that shows what it knows of the connection; ends with its guard.
pub struct TlsServer {
    child: std::process::Child,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
}

impl TlsServer {
    /// `certificate` and `key` are files in `directory`.
    pub fn start(directory: &Path, certificate: &str, key: &str) -> Self {
        let serve = ["s_server", "-www", "-key", key, "-cert", certificate];
        let mut serve = openssl(directory, &serve);
        serve.args(["-accept", "127.0.0.1:0"]).stdout(Stdio::piped());
        let mut child = serve.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("ACCEPT ")?.rsplit_once(':')?.1.parse().ok());
        Self { child, port: address.expect("openssl says where it listens") }
    }

    /// Ends it early.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        self.stop();
    }
}
