//! Shared by all collections: reading, deleting, and the trash of v3.

use axum::extract::{Query, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};

use super::artifacts::{Artifacts, Moved};
use super::input::{Id, Input};
use super::problem::{Problem, Result, no_content};
use super::schema::{Field, Kind};
use super::{App, Shared, Version};
use crate::standalone::records::{Deleted, Record, Stamp};
use crate::telemetry::chain;
use s3_client::Object;

/// `?cascade=`: whether v2 removes the artifacts of a record too. It does by default.
#[derive(Debug, Deserialize)]
pub struct Cascade {
    cascade: Option<String>,
}

impl Cascade {
    fn get(&self) -> Result<bool> {
        match self.cascade.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(_) => Err(Problem::bad_filter("cascade must be true or false".into())),
        }
    }
}

pub async fn list<T: Record>(State(app): State<Shared>) -> Result<Json<Vec<T>>> {
    Ok(Json(app.records.list().await?))
}

pub async fn one<T: Record>(State(app): State<Shared>, Id(id): Id) -> Result<Json<T>> {
    app.records.get(id).await?.map(Json).ok_or_else(Problem::not_found)
}

/// DELETE of one record: into the trash in v3, for good in v2.
pub async fn delete<T>(
    State(app): State<Shared>,
    Extension(version): Extension<Version>,
    Query(cascade): Query<Cascade>,
    Id(id): Id,
) -> Result<Response>
where
    T: Artifacts + Clone,
    Deleted<T>: Record + Clone,
{
    let cascade = cascade.get()?;
    let _guard = app.links.lock().await;
    let record: T = app.records.get(id).await?.ok_or_else(Problem::not_found)?;
    discard(&app, version, record, cascade).await?;
    Ok(no_content())
}

/// DELETE of a collection.
pub async fn delete_all<T>(
    State(app): State<Shared>,
    Extension(version): Extension<Version>,
    Query(cascade): Query<Cascade>,
) -> Result<Response>
where
    T: Artifacts + Clone,
    Deleted<T>: Record + Clone,
{
    let cascade = cascade.get()?;
    let _guard = app.links.lock().await;
    for record in app.records.list::<T>().await? {
        discard(&app, version, record, cascade).await?;
    }
    Ok(no_content())
}

async fn discard<T>(app: &App, version: Version, record: T, cascade: bool) -> Result<()>
where
    T: Artifacts + Clone,
    Deleted<T>: Record + Clone,
{
    match version {
        Version::V3 => {
            let Moved { record, originals } = record.bury(&app.objects).await?;
            let deleted = Deleted { record, deleted: Stamp::now() };
            // Copies exist, then the record points to them, then the originals go: whenever this
            // breaks off, the record has its artifacts.
            app.records.exchange::<T, _>(&deleted).await?;
            sweep(app, &originals).await;
            Ok(())
        }
        Version::V2 => {
            if cascade {
                let objects = record.objects(&app.objects).await?;
                app.objects.delete_all(&objects).await?;
            }
            app.records.remove::<T>(record.id()).await?;
            Ok(())
        }
    }
}

/// The trash of a collection.
pub fn deleted<T>(path: &str) -> Router<Shared>
where
    T: Artifacts + Clone + Serialize,
    Deleted<T>: Record + Clone,
{
    Router::new()
        .route(path, get(list::<Deleted<T>>).patch(undelete_all::<T>).delete(purge_all::<T>))
        .route(
            &format!("{path}/{{id}}"),
            get(one::<Deleted<T>>).patch(undelete::<T>).delete(purge::<T>),
        )
}

const OPERATION: &[Field] = &[Field::required("operation", Kind::OneOf(&["undelete"]))];

/// The one operation there is; checked by [`OPERATION`].
#[derive(Deserialize)]
struct Operation {}

async fn undelete<T>(State(app): State<Shared>, Id(id): Id, input: Input) -> Result<Response>
where
    T: Artifacts + Clone,
    Deleted<T>: Record + Clone,
{
    let _guard = app.links.lock().await;
    let found: Option<Deleted<T>> = app.records.get(id).await?;
    let deleted = found.ok_or_else(Problem::not_found)?;
    input.read::<Operation>(OPERATION)?;
    restore(&app, deleted).await?;
    Ok(no_content())
}

async fn undelete_all<T>(State(app): State<Shared>, input: Input) -> Result<Response>
where
    T: Artifacts + Clone,
    Deleted<T>: Record + Clone,
{
    input.read::<Operation>(OPERATION)?;
    let _guard = app.links.lock().await;
    for deleted in app.records.list::<Deleted<T>>().await? {
        restore(&app, deleted).await?;
    }
    Ok(no_content())
}

async fn restore<T>(app: &App, deleted: Deleted<T>) -> Result<()>
where
    T: Artifacts + Clone,
    Deleted<T>: Record,
{
    let Moved { record, originals } = deleted.record.revive(&app.objects).await?;
    app.records.exchange::<Deleted<T>, _>(&record).await?;
    sweep(app, &originals).await;
    Ok(())
}

/// Removes objects that no record needs any more; the record's change stays even if that fails.
async fn sweep(app: &App, originals: &[Object]) {
    if let Err(error) = app.objects.delete_all(originals).await {
        tracing::error!(error = %chain(&error), "cannot move the objects of a record, they stay \
            in the store");
    }
}

async fn purge<T>(State(app): State<Shared>, Id(id): Id) -> Result<Response>
where
    T: Artifacts,
    Deleted<T>: Record,
{
    let _guard = app.links.lock().await;
    let deleted: Deleted<T> = app.records.get(id).await?.ok_or_else(Problem::not_found)?;
    destroy(&app, deleted).await?;
    Ok(no_content())
}

async fn purge_all<T>(State(app): State<Shared>) -> Result<Response>
where
    T: Artifacts,
    Deleted<T>: Record,
{
    let _guard = app.links.lock().await;
    for deleted in app.records.list::<Deleted<T>>().await? {
        destroy(&app, deleted).await?;
    }
    Ok(no_content())
}

async fn destroy<T>(app: &App, deleted: Deleted<T>) -> Result<()>
where
    T: Artifacts,
    Deleted<T>: Record,
{
    let objects = deleted.record.objects(&app.objects).await?;
    app.objects.delete_all(&objects).await?;
    app.records.remove::<Deleted<T>>(deleted.id()).await?;
    Ok(())
}
