//! `public-keys`: the keys for logins to a job.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use uuid::Uuid;

use super::input::Input;
use super::problem::Result;
use super::schema::{Field, Kind};
use super::{Shared, collection};
use crate::standalone::records::{PublicKey, Stamp};

pub fn routes() -> Router<Shared> {
    Router::new()
        .route(
            "/public-keys",
            get(collection::list::<PublicKey>)
                .post(create)
                .delete(collection::delete_all::<PublicKey>),
        )
        .route(
            "/public-keys/{id}",
            get(collection::one::<PublicKey>).delete(collection::delete::<PublicKey>),
        )
}

const NEW: &[Field] =
    &[Field::required("name", Kind::Name), Field::required("public_key", Kind::Name)];

#[derive(Deserialize)]
struct New {
    name: String,
    public_key: String,
}

/// As in IMS, what is stored need not be a key; a job that uses it fails then.
async fn create(State(app): State<Shared>, input: Input) -> Result<(StatusCode, Json<PublicKey>)> {
    let New { name, public_key } = input.read(NEW)?;
    let key = PublicKey { name, public_key, id: Uuid::new_v4(), created: Stamp::now() };
    app.records.put(&key).await?;
    Ok((StatusCode::CREATED, Json(key)))
}
