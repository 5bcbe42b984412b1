//! `recipes`: what images are built from, with a link to an archive.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde::Deserialize;
use uuid::Uuid;

use super::collection::{self, Cascade};
use super::input::{Id, Input};
use super::problem::{Problem, Result};
use super::schema::{ARCH, Field, Kind, LINK};
use super::{App, Shared, Version, manifest};
use crate::contract::Arch;
use crate::standalone::records::{KeyValue, Link, Recipe, Stamp};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route("/recipes", get(collection::list::<Recipe>).post(create).delete(delete_all))
        .route("/recipes/{id}", get(collection::one::<Recipe>).patch(patch).delete(delete))
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

/// IMS builds with DKMS unless told not to.
fn yes() -> bool {
    true
}

async fn create(State(app): State<Shared>, input: Input) -> Result<(StatusCode, Json<Recipe>)> {
    let new: New = input.read(NEW)?;
    let _guard = app.links.lock().await;
    if let Some(link) = &new.link {
        check_link(&app, link).await?;
    }
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
    if let Some(link) = &patch.link {
        match &recipe.link {
            Some(old) if old == link => {}
            Some(_) => {
                return Err(Problem::conflict("The recipe has another link; it is set once."));
            }
            None => check_link(&app, link).await?,
        }
    }
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

/// An archive belongs to one recipe, and must exist.
async fn check_link(app: &App, link: &Link) -> Result<()> {
    for recipe in app.records.list::<Recipe>().await? {
        if recipe.link.is_some_and(|other| other.path == link.path) {
            return Err(Problem::unprocessable(format!(
                "The recipe {} links to {} already.",
                recipe.id, link.path
            )));
        }
    }
    let object = manifest::object(link)?;
    match app.objects.head(&object).await? {
        Some(_) => Ok(()),
        None => Err(Problem::unprocessable(format!("There is no object {object}."))),
    }
}

async fn delete(
    State(app): State<Shared>,
    Extension(version): Extension<Version>,
    Query(cascade): Query<Cascade>,
    Id(id): Id,
) -> Result<Response> {
    collection::delete::<Recipe>(&app, version, id, cascade.get()?).await
}

async fn delete_all(
    State(app): State<Shared>,
    Extension(version): Extension<Version>,
    Query(cascade): Query<Cascade>,
) -> Result<Response> {
    collection::delete_all::<Recipe>(&app, version, cascade.get()?).await
}
