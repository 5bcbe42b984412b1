//! `recipes`: sources of images, with a link to an archive.

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
use crate::standalone::records::{KeyValue, Link, Recipe, Stamp};
use ims_client::Arch;

pub fn routes() -> Router<Shared> {
    Router::new()
        .route(
            "/recipes",
            get(collection::list::<Recipe>).post(create).delete(collection::delete_all::<Recipe>),
        )
        .route(
            "/recipes/{id}",
            get(collection::one::<Recipe>).patch(patch).delete(collection::delete::<Recipe>),
        )
}

const PAIR: &[Field] = &[Field::required("key", Kind::Name), Field::required("value", Kind::Text)];

const NEW: &[Field] = &[
    Field::required("name", Kind::Name),
    Field::required("recipe_type", Kind::OneOf(&["kiwi-ng", "packer"])),
    Field::required("linux_distribution", Kind::OneOf(&["sles12", "sles15", "centos7"])),
    Field::nullable("link", Kind::Object(LINK)),
    Field::nullable("template_dictionary", Kind::List(PAIR)),
    Field::optional("require_dkms", Kind::Flag),
    Field::optional("arch", ARCH),
];

#[derive(Deserialize)]
struct New {
    name: String,
    recipe_type: String,
    linux_distribution: String,
    link: Option<Link>,
    #[serde(default)]
    template_dictionary: Vec<KeyValue>,
    #[serde(default = "yes")]
    require_dkms: bool,
    #[serde(default)]
    arch: Arch,
}

/// IMS builds with DKMS by default.
fn yes() -> bool {
    true
}

async fn create(State(app): State<Shared>, input: Input) -> Result<(StatusCode, Json<Recipe>)> {
    let new: New = input.read(NEW)?;
    let _guard = app.links.lock().await;
    links::check::<Recipe>(&app, None, new.link.as_ref()).await?;
    let recipe = Recipe {
        name: new.name,
        link: new.link,
        recipe_type: new.recipe_type,
        linux_distribution: new.linux_distribution,
        template_dictionary: new.template_dictionary,
        require_dkms: new.require_dkms,
        arch: new.arch,
        id: Uuid::new_v4(),
        created: Stamp::now(),
    };
    app.records.put(&recipe).await?;
    Ok((StatusCode::CREATED, Json(recipe)))
}

const PATCH: &[Field] = &[
    Field::optional("link", Kind::Object(LINK)),
    Field::optional("template_dictionary", Kind::List(PAIR)),
    Field::optional("require_dkms", Kind::Flag),
    Field::optional("arch", ARCH),
];

#[derive(Deserialize)]
struct Patch {
    link: Option<Link>,
    template_dictionary: Option<Vec<KeyValue>>,
    require_dkms: Option<bool>,
    arch: Option<Arch>,
}

async fn patch(State(app): State<Shared>, Id(id): Id, input: Input) -> Result<Json<Recipe>> {
    let _guard = app.links.lock().await;
    let recipe: Recipe = app.records.get(id).await?.ok_or_else(Problem::not_found)?;
    let patch: Patch = input.read(PATCH)?;
    links::check::<Recipe>(&app, recipe.link.as_ref(), patch.link.as_ref()).await?;
    let changed = app.records.update(id, move |recipe: &mut Recipe| apply(recipe, patch)).await?;
    changed.map(|(record, ())| Json(record)).ok_or_else(Problem::not_found)
}

fn apply(recipe: &mut Recipe, patch: Patch) {
    if let Some(link) = patch.link {
        recipe.link = Some(link);
    }
    if let Some(dictionary) = patch.template_dictionary {
        recipe.template_dictionary = dictionary;
    }
    if let Some(require_dkms) = patch.require_dkms {
        recipe.require_dkms = require_dkms;
    }
    if let Some(arch) = patch.arch {
        recipe.arch = arch;
    }
}
