//! The record of the one job, as IMS keeps it, and what may not happen to it.

use std::sync::{Arc, Mutex};

use axum::Json;
use axum::body::Bytes;
use axum::http::{Method, request::Parts};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::proxy::Hook;

#[derive(Default)]
struct Inner {
    fields: serde_json::Map<String, Value>,
    /// Every status and result, in their order.
    told: Vec<String>,
    /// What must not be.
    wrong: Vec<String>,
    /// A person does what is done now.
    by_hand: bool,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Record {
    id: String,
    inner: Arc<Mutex<Inner>>,
}

impl Record {
    pub fn new(id: &str, artifact: &str, action: &str) -> Self {
        let fields = json!({
            "id": id,
            "created": "2026-11-27T00:00:00",
            "job_type": action,
            "artifact_id": artifact,
            "public_key_id": id,
            "image_root_archive_name": crate::site::NAME,
            "status": "creating",
            "resultant_image_id": null,
            "arch": "x86_64",
        });
        let fields = fields.as_object().unwrap().clone();
        let inner = Inner { fields, ..Inner::default() };
        Self { id: id.into(), inner: Arc::new(Mutex::new(inner)) }
    }

    pub fn status(&self) -> String {
        self.inner.lock().unwrap().fields["status"].as_str().unwrap().to_owned()
    }

    pub fn is_terminal(&self) -> bool {
        is_terminal(&self.status())
    }

    pub fn result(&self) -> Option<String> {
        Some(self.inner.lock().unwrap().fields["resultant_image_id"].as_str()?.to_owned())
    }

    pub fn told(&self) -> Vec<String> {
        self.inner.lock().unwrap().told.clone()
    }

    pub fn wrong(&self) -> Vec<String> {
        self.inner.lock().unwrap().wrong.clone()
    }

    /// From now on a job that ended may be gone on with.
    pub fn by_hand(&self) {
        self.inner.lock().unwrap().by_hand = true;
    }

    pub fn is_by_hand(&self) -> bool {
        self.inner.lock().unwrap().by_hand
    }

    /// Answers for the record; everything else is left to the real service.
    pub fn hook(&self) -> Box<Hook> {
        let record = self.clone();
        Box::new(move |parts: &Parts, body: &Bytes| record.answer(parts, body))
    }

    fn answer(&self, parts: &Parts, body: &Bytes) -> Option<Response> {
        if !parts.uri.path().ends_with(&format!("/jobs/{}", self.id)) {
            return None;
        }
        let mut inner = self.inner.lock().unwrap();
        if parts.method == Method::PATCH {
            let patch: Value = serde_json::from_slice(body).unwrap();
            for (key, value) in patch.as_object().unwrap() {
                inner.set(key, value);
            }
        }
        Some(Json(Value::Object(inner.fields.clone())).into_response())
    }
}

impl Inner {
    fn set(&mut self, key: &str, value: &Value) {
        let before = self.fields.insert(key.to_owned(), value.clone()).unwrap_or_default();
        let (before, after) = (text(&before), text(value));
        let ended = match key {
            "status" => is_terminal(&before),
            _ => before != "null",
        };
        if ended && before != after && !self.by_hand {
            self.wrong.push(format!("{key} was {before} and became {after}"));
        }
        self.told.push(after);
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn is_terminal(status: &str) -> bool {
    matches!(status, "success" | "error")
}
