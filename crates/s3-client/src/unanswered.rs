//! Requests that change something and got no response: the store, or a gateway in front of it, may
//! execute one after its client has disconnected. Therefore a cleanup checks again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::store::Store;

/// How long after such a request its effect is checked.
const SETTLED: Duration = Duration::from_secs(5);

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// When a request was last left without an answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Unanswered(Arc<Mutex<Option<Instant>>>);

/// A request on its way; dropped, it is one without an answer.
pub(super) struct Open(Option<Unanswered>);

impl Unanswered {
    pub(super) fn open(&self) -> Open {
        Open(Some(self.clone()))
    }

    /// Whether one may still be carried out.
    fn is_pending(&self) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|last| last.elapsed() < SETTLED)
    }
}

impl Open {
    /// What came says whether it was carried out.
    pub(super) fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(Unanswered(last)) = &self.0 {
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }
}

impl Store {
    /// Deletes every object whose key begins with `prefix`, aborts every upload there, and gives the number
    /// of objects. Where a request was left without an answer a moment ago, looks again until it is not to
    /// be expected any more that the store carries it out.
    pub async fn delete_prefix_settled(
        &self,
        bucket: &str,
        prefix: &str,
        cancel: &CancellationToken,
    ) -> Result<usize, Error> {
        let mut objects = 0;
        loop {
            // Asked before: what comes after the look below is found by the next.
            let pending = self.unanswered.is_pending();
            objects += self.delete_prefix(bucket, prefix, cancel).await?;
            self.abort_unfinished(bucket, |object| object.key.starts_with(prefix), prefix).await;
            if !pending {
                return Ok(objects);
            }
            sleep(LOOK).await;
        }
    }
}
