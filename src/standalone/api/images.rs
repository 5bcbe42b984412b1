//! `images`: records of root file systems, with a link to their manifest.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use uuid::Uuid;

use super::input::{Id, Input};
use super::problem::{Problem, Result};
use super::schema::{ARCH, Field, Kind, LINK};
use super::{Shared, collection, links};
use crate::contract::Arch;
use crate::standalone::records::{Image, Link, Stamp};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route(
            "/images",
            get(collection::list::<Image>).post(create).delete(collection::delete_all::<Image>),
        )
        .route(
            "/images/{id}",
            get(collection::one::<Image>).patch(patch).delete(collection::delete::<Image>),
        )
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

async fn create(State(app): State<Shared>, input: Input) -> Result<(StatusCode, Json<Image>)> {
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

async fn patch(State(app): State<Shared>, Id(id): Id, input: Input) -> Result<Json<Image>> {
    let _guard = app.links.lock().await;
    let image: Image = app.records.get(id).await?.ok_or_else(Problem::not_found)?;
    let patch: Patch = input.read(PATCH)?;
    links::check::<Image>(&app, image.link.as_ref(), patch.link.as_ref()).await?;
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
