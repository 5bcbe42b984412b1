//! `images`: records of root file systems, with a link to their manifest.

use std::collections::BTreeMap;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::Deserialize;
use uuid::Uuid;

use super::auth::Caller;
use super::input::{Id, Input};
use super::problem::{Problem, Result};
use super::schema::{ARCH, Field, Kind, LINK};
use super::{Shared, Version, collection, links, own};
use crate::standalone::records::{Image, Link, Stamp};
use ims_client::Arch;

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/images", get(list).post(create).delete(collection::delete_all::<Image>))
        .route("/images/{id}", get(collection::one::<Image>).patch(patch).delete(delete))
}

async fn list(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<Vec<Image>>> {
    let images = app.records.list().await?;
    Ok(Json(own::visible(&app, caller, images)))
}

async fn delete(
    state: State<Shared>,
    Extension(caller): Extension<Caller>,
    version: Extension<Version>,
    cascade: Query<collection::Cascade>,
    Id(id): Id,
) -> Result<Response> {
    let app = Shared::clone(&state);
    let answer = collection::delete::<Image>(state, version, cascade, Id(id)).await?;
    own::deleted(&app, caller, id).await?;
    Ok(answer)
}

const NEW: &[Field] = &[
    Field::required("name", Kind::Name),
    Field::nullable("link", Kind::Object(LINK)),
    Field::optional("arch", ARCH),
    Field::nullable("metadata", Kind::Map),
];

#[derive(Deserialize)]
struct New {
    name: String,
    link: Option<Link>,
    #[serde(default)]
    arch: Arch,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

async fn create(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    input: Input,
) -> Result<(StatusCode, Json<Image>)> {
    let new: New = input.read(NEW)?;
    let _guard = app.links.lock().await;
    links::check::<Image>(&app, None, new.link.as_ref()).await?;
    let image = Image {
        name: new.name,
        link: new.link,
        arch: new.arch,
        metadata: new.metadata,
        id: Uuid::new_v4(),
        created: Stamp::now(),
    };
    own::make(&app, caller, image.id, image.link.as_ref()).await?;
    app.records.put(&image).await?;
    Ok((StatusCode::CREATED, Json(image)))
}

const PATCH: &[Field] = &[
    Field::optional("link", Kind::Object(LINK)),
    Field::optional("arch", ARCH),
    Field::optional(
        "metadata",
        Kind::OneOrMore(&[
            Field::required("operation", Kind::OneOf(&["set", "remove"])),
            Field::required("key", Kind::Text),
            Field::optional("value", Kind::Text),
        ]),
    ),
];

#[derive(Deserialize)]
struct Patch {
    link: Option<Link>,
    arch: Option<Arch>,
    #[serde(default)]
    metadata: Vec<Edit>,
}

/// One change of an image's metadata.
#[derive(Deserialize)]
#[serde(tag = "operation", rename_all = "lowercase")]
enum Edit {
    Set {
        key: String,
        #[serde(default)]
        value: String,
    },
    Remove {
        key: String,
    },
}

async fn patch(
    State(app): State<Shared>,
    Extension(caller): Extension<Caller>,
    Id(id): Id,
    input: Input,
) -> Result<Json<Image>> {
    let _guard = app.links.lock().await;
    let image: Image = app.records.get(id).await?.ok_or_else(Problem::not_found)?;
    let patch: Patch = input.read(PATCH)?;
    if let Some(link) = &patch.link {
        own::check_link(&app, caller, &image, link).await?;
    }
    let changed = app.records.update(id, move |image: &mut Image| apply(image, patch)).await?;
    changed.map(|(record, ())| Json(record)).ok_or_else(Problem::not_found)
}

fn apply(image: &mut Image, patch: Patch) {
    if let Some(link) = patch.link {
        image.link = Some(link);
    }
    if let Some(arch) = patch.arch {
        image.arch = arch;
    }
    for edit in patch.metadata {
        match edit {
            Edit::Set { key, value } => _ = image.metadata.insert(key, value),
            Edit::Remove { key } => _ = image.metadata.remove(&key),
        }
    }
}
