//! An HTTP proxy before a service under test: it passes everything on, keeps a log, and fails as it
//! is told. The Host header goes through unchanged, because signatures of S3 cover it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::{SOON, eventually};

/// How a request fails.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Answered so, and not passed on.
    Status(u16),
    /// Neither passed on nor answered.
    Hang,
    /// Passed on; the connection ends in the middle of the answer.
    Cut,
    /// Passed on; nothing is answered.
    Keep,
    /// Passed on; of the answer comes a byte now and then.
    Trickle,
    /// Not answered; passed on when the client has gone and then a request with all these words was
    /// answered.
    Late(&'static str),
}

/// For how many requests a rule holds.
pub const ALWAYS: usize = usize::MAX;

/// Answers instead of the service, where it wants to.
pub type Hook = dyn Fn(&Parts, &Bytes) -> Option<Response> + Send + Sync;

struct Rule {
    pattern: String,
    fault: Fault,
    left: usize,
}

/// A proxy on a port of its own.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    upstream: String,
    http: reqwest::Client,
    hook: Box<Hook>,
    /// What the service wants, whatever the client sent.
    token: Option<String>,
    rules: Mutex<Vec<Rule>>,
    log: Mutex<Vec<String>>,
    /// Requests in the order of their answers.
    answered: Mutex<Vec<String>>,
    /// Requests that were passed on after their clients had gone.
    late: Mutex<Vec<String>>,
}

impl Proxy {
    /// `upstream` is the base URL of the service, without a path.
    pub async fn start(upstream: &str, hook: Box<Hook>) -> Self {
        Self::with_token(upstream, None, hook).await
    }

    /// Logs in to the service with this token.
    pub async fn with_token(upstream: &str, token: Option<String>, hook: Box<Hook>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared {
            upstream: upstream.trim_end_matches('/').to_owned(),
            http: reqwest::Client::new(),
            hook,
            token,
            rules: Mutex::default(),
            log: Mutex::default(),
            answered: Mutex::default(),
            late: Mutex::default(),
        });
        let address = listener.local_addr().unwrap();
        let serving = Mutex::new(Some(tokio::spawn(serve(listener, shared.clone()))));
        Self { address, shared, serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets the next `times` requests fail whose line (`METHOD /path?query`) contains all words of
    /// `pattern`.
    pub fn fail(&self, pattern: &str, fault: Fault, times: usize) {
        let rule = Rule { pattern: pattern.into(), fault, left: times };
        self.shared.rules.lock().unwrap().push(rule);
    }

    /// No request fails any more.
    pub fn heal(&self) {
        self.shared.rules.lock().unwrap().clear();
    }

    /// Nobody listens, and every connection breaks.
    pub async fn down(&self) {
        let serving = self.serving.lock().unwrap().take().expect("the proxy is up");
        serving.abort();
        let _ = serving.await;
    }

    pub async fn up(&self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        *self.serving.lock().unwrap() = Some(tokio::spawn(serve(listener, self.shared.clone())));
    }

    /// How many requests have come whose line contains all words of `pattern`.
    pub fn count(&self, pattern: &str) -> usize {
        self.shared.log.lock().unwrap().iter().filter(|line| matches(line, pattern)).count()
    }

    /// Waits until the service has carried such a request out.
    pub async fn carries_out(&self, pattern: &str) {
        let done = async || {
            let answered = self.shared.answered.lock().unwrap();
            answered.iter().any(|line| matches(line, pattern)).then_some(())
        };
        eventually(&format!("a request {pattern} that is carried out"), SOON, done).await;
    }

    /// Waits until such a request was passed on late.
    pub async fn is_late(&self, pattern: &str) {
        let late = async || {
            let late = self.shared.late.lock().unwrap();
            late.iter().any(|line| matches(line, pattern)).then_some(())
        };
        eventually(&format!("a late request {pattern}"), SOON, late).await;
    }

    /// Waits until such a request has come.
    pub async fn sees(&self, pattern: &str) {
        let seen = async || (self.count(pattern) > 0).then_some(());
        eventually(&format!("a request {pattern}"), SOON, seen).await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.lock().unwrap().take() {
            serving.abort();
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let router = Router::new().fallback(handle).with_state(shared);
    // Its end is the end of every connection.
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            let builder = Builder::new(TokioExecutor::new());
            // A client may hang up whenever it wants.
            let _ = builder.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let line = format!("{} {}", parts.method, parts.uri);
    let fault = shared.fault(&line);
    shared.log.lock().unwrap().push(line.clone());
    match fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Status(status)) => {
            return StatusCode::from_u16(status).unwrap().into_response();
        }
        Some(Fault::Cut | Fault::Keep | Fault::Trickle | Fault::Late(_)) | None => {}
    }
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    if let Some(Fault::Late(after)) = fault {
        // Dropped with this future, which ends with the connection.
        let (_here, gone) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(shared.pass_on_late(gone, after, line, parts, body));
        return std::future::pending().await;
    }
    let response = match (shared.hook)(&parts, &body) {
        Some(response) => response,
        None => shared.pass_on(parts, body).await,
    };
    shared.answered.lock().unwrap().push(line);
    match fault {
        Some(Fault::Keep) => std::future::pending().await,
        Some(Fault::Trickle) => trickle(response).await,
        Some(_) => cut(response).await,
        None => response,
    }
}

impl Shared {
    fn fault(&self, line: &str) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        let rule = rules.iter_mut().find(|rule| rule.left > 0 && matches(line, &rule.pattern))?;
        rule.left -= 1;
        Some(rule.fault)
    }

    async fn pass_on_late(
        self: Arc<Self>,
        gone: tokio::sync::oneshot::Receiver<()>,
        after: &'static str,
        line: String,
        parts: Parts,
        body: Bytes,
    ) {
        let _ = gone.await;
        let before = self.answered.lock().unwrap().len();
        while !self.answered.lock().unwrap()[before..].iter().any(|line| matches(line, after)) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        self.pass_on(parts, body).await;
        self.late.lock().unwrap().push(line);
    }

    async fn pass_on(&self, parts: Parts, body: Bytes) -> Response {
        let url = format!("{}{}", self.upstream, parts.uri);
        let mut headers = parts.headers;
        if let Some(token) = &self.token {
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        }
        let request = self.http.request(parts.method, url).headers(headers).body(body);
        let Ok(answer) = request.send().await else {
            return StatusCode::BAD_GATEWAY.into_response();
        };
        let (status, mut headers) = (answer.status(), answer.headers().clone());
        headers.remove(header::TRANSFER_ENCODING);
        match answer.bytes().await {
            Ok(bytes) => (status, headers, Body::from(bytes)).into_response(),
            Err(_) => StatusCode::BAD_GATEWAY.into_response(),
        }
    }
}

/// A byte every tenth of a second.
async fn trickle(response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    let body = stream::unfold(bytes, |mut bytes| async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        (!bytes.is_empty()).then(|| (Ok::<_, std::io::Error>(bytes.split_to(1)), bytes))
    });
    Response::from_parts(parts, Body::from_stream(body))
}

/// The first half of an answer whose length says that there is more.
async fn cut(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.unwrap();
    parts.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
    let half = bytes.slice(..bytes.len() / 2);
    let broken = Err(std::io::Error::other("cut by the test"));
    Response::from_parts(parts, Body::from_stream(stream::iter([Ok(half), broken])))
}

fn matches(line: &str, pattern: &str) -> bool {
    pattern.split_whitespace().all(|word| line.contains(word))
}
