//! Creates records exactly once, even if responses are lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::client::Client;
use super::error::Error;
use super::records::Image;
use super::request::Request;
use crate::Arch;

/// Clocks of IMS and the pod agree at least this well, once the `Date` header is taken into account.
const CLOCK_SLACK: Duration = Duration::from_secs(3);

impl Client {
    /// Creates an image record, without a link yet.
    pub async fn create_image(
        &self,
        name: &str,
        arch: Arch,
        cancel: &CancellationToken,
    ) -> Result<Image, Error> {
        self.create(self.url(&["images"]), image_fields(name, arch), cancel).await
    }

    /// The images of this name without a link that were created since `begun`: candidates for the
    /// record of a request that was given up.
    pub async fn images_made(
        &self,
        name: &str,
        arch: Arch,
        begun: Timestamp,
        cancel: &CancellationToken,
    ) -> Result<Vec<Image>, Error> {
        let (url, fields) = (self.url(&["images"]), image_fields(name, arch));
        let request = Request { method: Method::GET, url, body: None };
        let list = || self.made_since(&request.url, &fields, begun);
        let made = self.policy.run(&request.name(), cancel, Error::is_transient, list).await?;
        made.into_iter().map(|record| request.parse(record)).collect()
    }

    /// Creates a record of `body`, without a link yet.
    ///
    /// A POST whose answer was lost may have made a record. Before such a POST is tried again, the
    /// collection is listed: a single record with our fields, without a link, made since the first try
    /// began, is used. (Another client that made a record of the same fields within those seconds
    /// could not be distinguished from it.) Otherwise the POST is sent again.
    pub(super) async fn create<T: DeserializeOwned>(
        &self,
        collection: Url,
        body: Value,
        cancel: &CancellationToken,
    ) -> Result<T, Error> {
        let (url, fields) = (collection.clone(), body.clone());
        let request = Request { method: Method::POST, url: collection, body: Some(body) };
        let begun = Timestamp::now();
        let in_doubt = AtomicBool::new(false);
        let create = || async {
            if in_doubt.load(Ordering::Relaxed) {
                let mut made = self.made_since(&url, &fields, begun).await?;
                match (made.pop(), made.is_empty()) {
                    (None, _) => {}
                    (Some(record), true) => {
                        tracing::info!(id = %record["id"], "IMS created the record, but its \
                            response was lost; using that record");
                        return request.parse(record);
                    }
                    (Some(_), false) => tracing::warn!(
                        "a response of IMS was lost and several records could be ours: using none \
                         of them"
                    ),
                }
            }
            let made = match self.sender.send(&request, self.policy.answer).await {
                Ok(answer) => request.record(&answer),
                Err(error) => Err(error),
            };
            if made.as_ref().is_err_and(Error::is_ambiguous) {
                in_doubt.store(true, Ordering::Relaxed);
            }
            made
        };
        let what = request.name();
        Ok(self.policy.run(&what, cancel, Error::is_transient, create).await?)
    }

    /// The records of `fields` without a link that were created since `begun` by this machine's clock.
    pub(super) async fn made_since(
        &self,
        collection: &Url,
        fields: &Value,
        begun: Timestamp,
    ) -> Result<Vec<Value>, Error> {
        let request = Request { method: Method::GET, url: collection.clone(), body: None };
        let answer = self.sender.send(&request, self.policy.answer).await?;
        let now = Timestamp::now();
        let ahead = answer.date.unwrap_or(now).duration_since(now);
        let earliest = begun + ahead - CLOCK_SLACK;
        let records: Vec<Value> = request.record(&answer)?;
        let ours = |record: &Value| {
            let created = record.get("created").and_then(Value::as_str).and_then(utc);
            has_fields(record, fields)
                && record.get("link").is_none_or(Value::is_null)
                && created.is_some_and(|made| made >= earliest)
        };
        Ok(records.into_iter().filter(ours).collect())
    }
}

fn image_fields(name: &str, arch: Arch) -> Value {
    json!({ "name": name, "arch": arch })
}

/// True if the record has the fields' values; older services lack some fields.
fn has_fields(record: &Value, fields: &Value) -> bool {
    let Some(fields) = fields.as_object() else { return false };
    fields.iter().all(|(key, value)| record.get(key).is_none_or(|found| found == value))
}

/// A time as IMS writes it: RFC 3339, or without a time zone and then UTC.
fn utc(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| {
        let local: jiff::civil::DateTime = text.parse().ok()?;
        Some(local.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    })
}
