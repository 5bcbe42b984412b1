//! `standalone/jobs/ID/host-keys`: the SSH host keys of a job.
//!
//! Our own resource: IMS's job record has no field for it, and its clients may check the schema.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::Shared;
use super::input::Id;
use super::problem::{Problem, Result};

pub fn routes() -> Router<Shared> {
    Router::new().route("/standalone/jobs/{id}/host-keys", get(one))
}

/// Not found before the job has made its keys, and after its directory was removed.
async fn one(State(app): State<Shared>, Id(id): Id) -> Result<Json<Value>> {
    let read = tokio::task::spawn_blocking(move || app.launcher.host_keys(id)).await;
    let Ok(Ok(keys)) = read else { return Err(Problem::not_found()) };
    let key = |(kind, fingerprint)| json!({"type": kind, "fingerprint": fingerprint});
    Ok(Json(keys.fingerprints().into_iter().map(key).collect()))
}
