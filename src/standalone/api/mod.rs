//! The REST API of IMS (contract section 7): v2, v3, and unversioned, which is v2.
//!
//! One file per collection; shared code is in `collection` (read, delete, undelete), `artifacts`
//! (objects of a record), `manifest` (whether a link may be set), `own` (permissions of a job),
//! `schema` (bodies as data).

mod artifacts;
mod auth;
mod collection;
mod host_keys;
mod images;
mod input;
mod jobs;
mod links;
pub(super) mod manifest;
mod own;
pub(super) mod problem;
mod public_keys;
mod recipes;
mod schema;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::middleware;
use axum::routing::get;
use axum::{Extension, Json, Router};
use secrecy::SecretString;
use serde_json::json;
use tokio::sync::Mutex;

use super::grants::Grants;
use super::launcher::Launcher;
use super::objects::Objects;
use super::readiness::Readiness;
use super::records::{Image, PublicKey, Recipe, Records};
use problem::Problem;

/// Longest body taken, in bytes; template dictionaries are the largest.
const MAX_BODY: usize = 1024 * 1024;

/// What the handlers work with.
pub struct App {
    pub records: Records,
    pub objects: Objects,
    pub launcher: Launcher,
    pub readiness: Readiness,
    /// Its owner's; everything can be done with it.
    pub token: SecretString,
    /// What jobs may do.
    pub grants: Grants,
    /// Held from the check of a link, or of a record about to go, to its change.
    pub links: Mutex<()>,
}

type Shared = Arc<App>;

/// Of the API. What differs: a delete in v3 can be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V2,
    V3,
}

/// The whole API as a service, with that of CFS under its own path.
pub fn router(app: App, cfs: Router<Arc<App>>) -> Router {
    let app = Arc::new(app);
    let v3 = collections(Version::V3)
        .merge(collection::deleted::<Image>("/deleted/images"))
        .merge(collection::deleted::<Recipe>("/deleted/recipes"))
        .merge(collection::deleted::<PublicKey>("/deleted/public-keys"));
    let protected = collections(Version::V2)
        .nest("/v2", collections(Version::V2))
        .nest("/v3", v3)
        .merge(host_keys::routes())
        .nest("/apis/cfs", cfs)
        .route("/version", get(version))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), auth::check));
    Router::new()
        .route("/healthz/ready", get(ready))
        .route("/healthz/live", get(healthy))
        .route("/oauth/token", axum::routing::post(auth::grant))
        .merge(protected)
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(app)
}

fn collections(version: Version) -> Router<Shared> {
    images::routes()
        .merge(recipes::routes())
        .merge(public_keys::routes())
        .merge(jobs::routes())
        .layer(Extension(version))
}

async fn healthy() -> Json<serde_json::Value> {
    Json(json!({}))
}

/// Whether requests that change something can be answered.
async fn ready(State(app): State<Shared>) -> problem::Result<Json<serde_json::Value>> {
    match app.readiness.check(&app.records).await {
        Ok(()) => Ok(Json(json!({}))),
        Err(reason) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, reason)),
    }
}

async fn version() -> Json<serde_json::Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}
