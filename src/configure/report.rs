//! A session as CFS describes it (v3), for the result of a run and for the API of standalone.

use jiff::Timestamp;
use serde_json::{Value, json};

/// One image that was configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    pub image_id: String,
    pub result_id: String,
}

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Session<'a> {
    pub name: &'a str,
    pub configuration: &'a str,
    /// Indices or names with commas between; empty: all layers.
    pub limit: &'a str,
    pub image_id: &'a str,
    pub result_name: &'a str,
    pub groups: &'a [String],
    pub started: Timestamp,
}

/// The session at its end; `artifact` is missing when it failed.
pub fn ended(session: &Session, artifact: Option<&Artifact>) -> Value {
    let groups: Vec<_> = session
        .groups
        .iter()
        .map(|group| json!({ "name": group, "members": [session.image_id] }))
        .collect();
    let artifacts: Vec<_> = artifact.into_iter().map(artifact_json).collect();
    json!({
        "name": session.name,
        "configuration": { "name": session.configuration, "limit": session.limit },
        "target": {
            "definition": "image",
            "groups": groups,
            "image_map": [{ "source_id": session.image_id, "result_name": session.result_name }],
        },
        "status": {
            "artifacts": artifacts,
            "session": {
                "job": null,
                "start_time": time(session.started),
                "completion_time": time(Timestamp::now()),
                "status": "complete",
                "succeeded": if artifact.is_some() { "true" } else { "false" },
            },
        },
    })
}

pub fn artifact_json(artifact: &Artifact) -> Value {
    json!({
        "image_id": artifact.image_id,
        "result_id": artifact.result_id,
        "type": "ims_customized_image",
    })
}

/// UTC in seconds, without a zone, as CFS has it.
pub fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S").to_string()
}
