//! Checks whether standalone can store data, by a small write to each of its stores.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::records::Records;
use super::s3::Probe;
use crate::telemetry::chain;

/// For so long an answer holds: each costs a few fsyncs.
const AGE: Duration = Duration::from_secs(2);

/// The stores that are checked; the object store only if it is the embedded one.
#[derive(Debug)]
pub struct Readiness {
    store: Option<Probe>,
    last: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl Readiness {
    pub fn new(store: Option<Probe>) -> Self {
        Self { store, last: Mutex::default() }
    }

    /// Why not, if not.
    pub async fn check(&self, records: &Records) -> Result<(), String> {
        let mut last = self.last.lock().await;
        if let Some((when, answer)) = &*last
            && when.elapsed() < AGE
        {
            return answer.clone();
        }
        let answer = self.probe(records).await;
        if let Err(reason) = &answer {
            tracing::warn!(reason, "not ready");
        }
        *last = Some((Instant::now(), answer.clone()));
        answer
    }

    async fn probe(&self, records: &Records) -> Result<(), String> {
        records
            .probe()
            .await
            .map_err(|error| format!("cannot store records: {}", chain(&error)))?;
        let Some(store) = self.store.clone() else { return Ok(()) };
        let written = tokio::task::spawn_blocking(move || store.write()).await;
        written
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("cannot store objects: {}", chain(error.as_ref())))
    }
}
