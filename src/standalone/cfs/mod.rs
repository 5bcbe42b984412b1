//! The part of CFS for the procedure of incremental configuration: configurations and sessions,
//! under `/apis/cfs/v3` (and `/apis/cfs/v2`, the default of the cray CLI).
//!
//! A session is `ims-job-agent configure` as a child, see `run`; `store` keeps what clients
//! created.

mod input;
mod run;
mod store;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Json, Router};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::api::problem::{Problem, Result, no_content};
use super::launcher::Services;
use super::objects::Objects;
use super::records::{Image, Records};
use crate::configure::{Configuration, report};
use crate::telemetry::chain;
use run::Runner;
use store::Store;

/// What sessions are run with.
#[derive(Debug)]
pub struct Setup {
    /// Of configurations, sessions and checkpoints.
    pub directory: PathBuf,
    pub agent_binary: PathBuf,
    pub records: Records,
    pub objects: Objects,
    pub services: Services,
}

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cfs {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    configurations: Store,
    sessions: Store,
    records: Records,
    runner: Runner,
}

/// Of the API: v2 writes camel case, and lists without a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V2,
    V3,
}

impl Cfs {
    /// Called inside a tokio runtime. Sessions that an earlier run left unfinished have failed.
    pub fn start(mut setup: Setup) -> io::Result<Self> {
        // Children have another working directory.
        setup.directory = std::path::absolute(&setup.directory)?;
        let configurations = Store::open(setup.directory.join("configurations"))?;
        let sessions = Store::open(setup.directory.join("sessions"))?;
        for mut session in sessions.list()? {
            if session["status"]["session"]["status"] != "complete" {
                run::end(&mut session, false);
                // If there is no space for that, it is stored at the next start.
                if let Err(error) = sessions.put(&session) {
                    tracing::warn!(session = %session["name"], %error, "cannot store the status \
                        of an ended session");
                }
            }
        }
        let records = setup.records.clone();
        let runner = Runner::new(setup, sessions.clone())?;
        Ok(Self { inner: Arc::new(Inner { configurations, sessions, records, runner }) })
    }

    /// Ends all sessions; checkpoints stay.
    pub async fn shut_down(&self) {
        self.inner.runner.shut_down().await;
    }
}

/// The paths below `/apis/cfs`.
pub fn routes<S: Clone + Send + Sync + 'static>(cfs: Cfs) -> Router<S> {
    let of = |version| {
        Router::new()
            .route("/configurations", get(configurations))
            .route(
                "/configurations/{name}",
                get(configuration).put(put_configuration).delete(delete_configuration),
            )
            .route("/sessions", get(sessions).post(create_session))
            .route("/sessions/{name}", get(session).delete(delete_session))
            .layer(Extension(version))
    };
    Router::new().nest("/v2", of(Version::V2)).nest("/v3", of(Version::V3)).with_state(cfs)
}

async fn configurations(
    State(cfs): State<Cfs>,
    Extension(version): Extension<Version>,
) -> Result<Json<Value>> {
    list(&cfs.inner.configurations, "configurations", version)
}

async fn configuration(
    State(cfs): State<Cfs>,
    Extension(version): Extension<Version>,
    Path(name): Path<String>,
) -> Result<Json<Value>> {
    one(&cfs.inner.configurations, &name, version)
}

/// Makes or replaces a configuration. Branches are looked up when a session clones them.
async fn put_configuration(
    State(cfs): State<Cfs>,
    Extension(version): Extension<Version>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Json<Value>> {
    store::check_name(&name).map_err(Problem::bad_request)?;
    let configuration =
        Configuration::parse(&body, &name).map_err(|error| Problem::bad_request(chain(&error)))?;
    let mut value = json!(configuration);
    value["name"] = name.into();
    value["last_updated"] = format!("{}Z", report::time(Timestamp::now())).into();
    let configurations = &cfs.inner.configurations;
    configurations
        .put(&value)
        .map_err(|error| Problem::disk(&error, configurations.directory()))?;
    Ok(Json(of_version(value, version)))
}

async fn delete_configuration(
    State(cfs): State<Cfs>,
    Path(name): Path<String>,
) -> Result<Response> {
    match cfs.inner.configurations.remove(&name) {
        Ok(true) => Ok(no_content()),
        Ok(false) => Err(Problem::not_found()),
        Err(error) => Err(Problem::internal(&error)),
    }
}

async fn sessions(
    State(cfs): State<Cfs>,
    Extension(version): Extension<Version>,
) -> Result<Json<Value>> {
    list(&cfs.inner.sessions, "sessions", version)
}

async fn session(
    State(cfs): State<Cfs>,
    Extension(version): Extension<Version>,
    Path(name): Path<String>,
) -> Result<Json<Value>> {
    one(&cfs.inner.sessions, &name, version)
}

/// Checks everything, then starts the session.
async fn create_session(
    State(cfs): State<Cfs>,
    Extension(version): Extension<Version>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>)> {
    let new = input::Session::parse(&body).map_err(Problem::bad_request)?;
    let inner = &cfs.inner;
    let found = inner.configurations.get(&new.configuration_name);
    let Some(configuration) = found.map_err(|error| Problem::internal(&error))? else {
        let detail = format!("There is no configuration {:?}.", new.configuration_name);
        return Err(Problem::bad_request(detail));
    };
    let configuration =
        Configuration::parse(&store::bytes(&configuration), &new.configuration_name)
            .map_err(|error| Problem::internal(&error))?;
    configuration.select(new.limit(), None).map_err(|error| Problem::bad_request(chain(&error)))?;
    for id in new.images() {
        if inner.records.get::<Image>(id).await?.is_none() {
            return Err(Problem::bad_request(format!("There is no image {id}.")));
        }
    }
    let value = new.record();
    let made = inner.sessions.create(&value);
    let made = made.map_err(|error| Problem::disk(&error, inner.sessions.directory()))?;
    if !made {
        return Err(Problem::conflict(format!("There is a session {:?} already.", new.name)));
    }
    inner.runner.start(new, &configuration);
    let status = if version == Version::V2 { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(of_version(value, version))))
}

/// Ends the session if it runs. Checkpoints stay, for a session of the same configuration.
async fn delete_session(State(cfs): State<Cfs>, Path(name): Path<String>) -> Result<Response> {
    cfs.inner.runner.end(&name).await;
    match cfs.inner.sessions.remove(&name) {
        Ok(true) => Ok(no_content()),
        Ok(false) => Err(Problem::not_found()),
        Err(error) => Err(Problem::internal(&error)),
    }
}

fn one(store: &Store, name: &str, version: Version) -> Result<Json<Value>> {
    let found = store.get(name).map_err(|error| Problem::internal(&error))?;
    found.map(|value| Json(of_version(value, version))).ok_or_else(Problem::not_found)
}

fn list(store: &Store, what: &str, version: Version) -> Result<Json<Value>> {
    let all = store.list().map_err(|error| Problem::internal(&error))?;
    let all: Value = all.into_iter().map(|value| of_version(value, version)).collect();
    Ok(Json(match version {
        Version::V2 => all,
        Version::V3 => json!({ what: all, "next": null }),
    }))
}

fn of_version(value: Value, version: Version) -> Value {
    if version == Version::V3 { value } else { camel_case(value) }
}

/// What clients named (tags, groups) are values here, never keys.
fn camel_case(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let renamed = map.into_iter().map(|(key, value)| {
                // CFS kept these as they are in v3.
                let kept = matches!(
                    key.as_str(),
                    "image_id" | "result_id" | "image_map" | "source_id" | "result_name"
                );
                (if kept { key } else { camel(&key) }, camel_case(value))
            });
            Value::Object(renamed.collect::<Map<_, _>>())
        }
        Value::Array(all) => all.into_iter().map(camel_case).collect(),
        other => other,
    }
}

fn camel(key: &str) -> String {
    let mut parts = key.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut name, part| {
        let (head, tail) = part.split_at(part.len().min(1));
        name.push_str(&head.to_ascii_uppercase());
        name.push_str(tail);
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_is_camel_case() {
        let value = json!({"status": {"session": {"completion_time": "t"},
            "artifacts": [{"image_id": "i"}]}});
        let expected = json!({"status": {"session": {"completionTime": "t"},
            "artifacts": [{"image_id": "i"}]}});
        assert_eq!(of_version(value.clone(), Version::V2), expected);
        assert_eq!(of_version(value.clone(), Version::V3), value);
    }
}
