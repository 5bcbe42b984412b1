//! `jobs`: customize and create images. A POST starts a job, a DELETE ends it.

mod create;
mod filter;

use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Json, Router};
use futures::future::join_all;
use serde::Deserialize;
use uuid::Uuid;

use super::auth::{Caller, forbidden};
use super::input::{Id, Input};
use super::problem::{Problem, Result, no_content};
use super::schema::{Field, Kind};
use super::{Shared, collection, own};
use crate::standalone::records::Job;
use filter::Filter;
use ims_client::Status;

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/jobs", get(collection::list::<Job>).post(create::create).delete(delete_all))
        .route("/jobs/{id}", get(collection::one::<Job>).patch(patch).delete(delete))
}

/// All statuses there are (contract section 6).
const STATUSES: &[&str] = &[
    "creating",
    "fetching_image",
    "fetching_recipe",
    "waiting_for_repos",
    "building_image",
    "packaging_artifacts",
    "waiting_on_user",
    "error",
    "success",
];

const PATCH: &[Field] = &[
    Field::optional("status", Kind::OneOf(STATUSES)),
    Field::optional("resultant_image_id", Kind::Id),
];

#[derive(Deserialize)]
struct Patch {
    status: Option<Status>,
    resultant_image_id: Option<Uuid>,
}

/// As in IMS, statuses may come in any order and the image need not exist.
async fn patch(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    input: Input,
) -> Result<Json<Job>> {
    app.records.get::<Job>(id).await?.ok_or_else(Problem::not_found)?;
    let patch: Patch = input.read(PATCH)?;
    if patch.resultant_image_id.is_some_and(|image| !own::is_own(&app, caller, image)) {
        return Err(forbidden());
    }
    let changed = app.records.update(id, move |job: &mut Job| {
        job.status = patch.status.unwrap_or(job.status);
        job.resultant_image_id = patch.resultant_image_id.or(job.resultant_image_id);
    });
    let (job, ()) = changed.await?.ok_or_else(Problem::not_found)?;
    tracing::info!(job = %id, status = %job.status, "job patched");
    Ok(Json(job))
}

async fn delete(State(app): State<Shared>, Id(id): Id) -> Result<Response> {
    app.records.get::<Job>(id).await?.ok_or_else(Problem::not_found)?;
    remove(&app, vec![id]).await
}

async fn delete_all(State(app): State<Shared>, Query(filter): Query<Filter>) -> Result<Response> {
    let wanted = filter.parse().map_err(Problem::bad_filter)?;
    let jobs = app.records.list::<Job>().await?;
    remove(&app, jobs.iter().filter(|job| wanted.matches(job)).map(|job| job.id).collect()).await
}

/// Ends jobs, all at once, then removes their records: until then they can still be patched.
async fn remove(app: &Shared, jobs: Vec<Uuid>) -> Result<Response> {
    let app = Shared::clone(app);
    // In a task of its own: a client that hangs up must not leave a job half ended.
    let removal = tokio::spawn(async move {
        join_all(jobs.iter().map(|job| app.launcher.end(*job))).await;
        for job in jobs {
            app.records.remove::<Job>(job).await?;
        }
        Ok(no_content())
    });
    removal.await.map_err(|error| Problem::internal(&error))?
}
