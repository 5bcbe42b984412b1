//! The status listener: `/healthz`, `/readyz` for probes, `/metrics` for Prometheus, `/status` for people.
//!
//! `job` writes what it does into a [`Board`]; the listener (off by default) only reads it.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use prometheus::{GaugeVec, Opts, Registry, TextEncoder};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::progress::Meter;
use ims_client::Status;

/// What a job shows of itself. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Board {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    job_id: String,
    started: Instant,
    shown: Mutex<Shown>,
}

#[derive(Debug)]
struct Shown {
    status: Status,
    since: Instant,
    ready: bool,
    sessions: usize,
    /// Types and fingerprints.
    host_keys: Vec<(String, String)>,
    meters: Vec<Meter>,
    hold: Option<Hold>,
}

/// Why a job does not continue, and how long it waits for a repair.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Hold {
    pub reason: String,
    pub since: jiff::Timestamp,
    /// Without a repair the job ends then with `error`.
    pub until: jiff::Timestamp,
}

impl Board {
    pub fn new(job_id: String) -> Self {
        let now = Instant::now();
        let shown = Shown {
            status: Status::Creating,
            since: now,
            ready: false,
            sessions: 0,
            host_keys: Vec::new(),
            meters: Vec::new(),
            hold: None,
        };
        Self { inner: Arc::new(Inner { job_id, started: now, shown: Mutex::new(shown) }) }
    }

    pub fn set_status(&self, status: Status) {
        let mut shown = self.shown();
        shown.status = status;
        shown.since = Instant::now();
        shown.ready = status == Status::WaitingOnUser;
    }

    /// Shows that the job is held, or that it continues.
    pub fn set_hold(&self, hold: Option<Hold>) {
        self.shown().hold = hold;
    }

    pub fn set_sessions(&self, count: usize) {
        self.shown().sessions = count;
    }

    /// Shows how the SSH server proves itself: type and fingerprint of each key.
    pub fn set_host_keys(&self, keys: Vec<(String, String)>) {
        self.shown().host_keys = keys;
    }

    fn summary(&self) -> Value {
        let shown = self.shown();
        let key = |(kind, fingerprint): &(String, String)| json!({"type": kind, "fingerprint": fingerprint});
        json!({
            "job_id": self.inner.job_id,
            "status": shown.status.to_string(),
            "status_seconds": shown.since.elapsed().as_secs(),
            "hold": shown.hold,
            "ssh_sessions": shown.sessions,
            "ssh_host_keys": shown.host_keys.iter().map(key).collect::<Vec<_>>(),
        })
    }

    /// Shows the progress of a step from now on.
    pub fn watch(&self, meter: &Meter) {
        self.shown().meters.push(meter.clone());
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        // A panic elsewhere must not take the probes down with it.
        self.inner.shown.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn metrics(&self) -> prometheus::Result<String> {
        let registry = Registry::new();
        let gauge = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<GaugeVec> {
            let gauge = GaugeVec::new(Opts::new(format!("ims_job_agent_{name}"), help), labels)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let shown = self.shown();
        gauge("info", "The agent and its job.", &["version", "job_id"])?
            .with_label_values(&[env!("CARGO_PKG_VERSION"), &self.inner.job_id])
            .set(1.0);
        gauge("uptime_seconds", "Seconds since the agent started.", &[])?
            .with_label_values::<&str>(&[])
            .set(self.inner.started.elapsed().as_secs_f64());
        gauge("status_seconds", "Seconds in the present job status.", &["status"])?
            .with_label_values(&[shown.status.to_string()])
            .set(shown.since.elapsed().as_secs_f64());
        gauge("held", "1 while the job waits for a repair, see /status.", &[])?
            .with_label_values::<&str>(&[])
            .set(f64::from(shown.hold.is_some()));
        gauge("ssh_sessions", "Open SSH sessions.", &[])?
            .with_label_values::<&str>(&[])
            .set(shown.sessions as f64);
        let done = gauge("step_done", "Progress of a step, in its unit.", &["step", "unit"])?;
        let total = gauge("step_total", "Size of a step, in its unit.", &["step", "unit"])?;
        for meter in &shown.meters {
            let labels = [meter.step(), meter.unit().name()];
            done.with_label_values(&labels).set(meter.done() as f64);
            total.with_label_values(&labels).set(meter.total() as f64);
        }
        TextEncoder::new().encode_to_string(&registry.gather())
    }
}

/// Serves the board until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    board: Board,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(async |State(board): State<Board>| Json(board.summary())))
        .with_state(board);
    axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

async fn ready(State(board): State<Board>) -> (StatusCode, String) {
    let shown = board.shown();
    let code = if shown.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{}\n", shown.status))
}

async fn metrics(State(board): State<Board>) -> (StatusCode, String) {
    match board.metrics() {
        Ok(text) => (StatusCode::OK, text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::Unit;
    use super::*;

    async fn get(address: std::net::SocketAddr, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    #[tokio::test]
    async fn probes_and_metrics_follow_the_job() {
        let board = Board::new("job-1".into());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, board.clone(), shutdown.clone()));

        assert_eq!(get(address, "/healthz").await.0, 200);
        assert_eq!(get(address, "/readyz").await, (503, "creating\n".into()));
        board.set_status(Status::WaitingOnUser);
        assert_eq!(get(address, "/readyz").await, (200, "waiting_on_user\n".into()));

        let meter = Meter::start("fetch", Unit::Bytes, 0);
        meter.add(42);
        board.watch(&meter);
        let (code, text) = get(address, "/metrics").await;
        assert_eq!(code, 200);
        assert!(
            text.contains(r#"ims_job_agent_step_done{step="fetch",unit="bytes"} 42"#),
            "{text}"
        );
        assert!(text.contains(r#"ims_job_agent_status_seconds{status="waiting_on_user"}"#));

        assert!(text.contains("ims_job_agent_held 0"), "{text}");
        let (since, until) = (jiff::Timestamp::UNIX_EPOCH, jiff::Timestamp::MAX);
        board.set_hold(Some(Hold { reason: "no such bucket".into(), since, until }));
        assert!(get(address, "/metrics").await.1.contains("ims_job_agent_held 1"));

        board.set_host_keys(vec![("ssh-ed25519".into(), "SHA256:x".into())]);
        let (_, text) = get(address, "/status").await;
        let summary: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(summary["hold"]["reason"], "no such bucket", "{text}");
        assert_eq!(summary["hold"]["since"], "1970-01-01T00:00:00Z", "{text}");
        assert_eq!(summary["ssh_host_keys"][0]["fingerprint"], "SHA256:x", "{text}");

        shutdown.cancel();
        server.await.unwrap().unwrap();
    }
}
