//! Rebuilds the index of the embedded store, with the help of the records for older objects.

use std::path::Path;

use super::records::{self, Deleted, Image, Link, Recipe, Records};
use super::s3::{self, Hint, Report};
use super::server::{Error, open_records};
use crate::telemetry::chain;
use s3_client::Object;

/// Rebuilds the object index in the data directory, while no standalone uses it.
pub async fn rebuild_index(data: &Path) -> Result<Report, Error> {
    let path = data.join("records.redb");
    // Held to the end: no service uses this directory at the same time.
    let (hints, _records) = if path.exists() {
        match open_records(path).await {
            Ok(records) => (hints(&records).await, Some(records)),
            Err(Error::Records { source, .. }) if source.is_damage() => {
                tracing::warn!(
                    error = %chain(&source),
                    "objects of an older version are not referenced by any record"
                );
                (Vec::new(), None)
            }
            Err(error) => return Err(error),
        }
    } else {
        (Vec::new(), None)
    };
    let dir = data.join("s3");
    Ok(tokio::task::spawn_blocking(move || s3::rebuild(&dir, hints)).await??)
}

/// What records link to; nothing of a collection that cannot be read.
async fn hints(records: &Records) -> Vec<Hint> {
    let mut links = Vec::new();
    links.extend(read(records.list::<Image>().await).into_iter().map(|it| it.link));
    links.extend(read(records.list::<Recipe>().await).into_iter().map(|it| it.link));
    links.extend(read(records.list::<Deleted<Image>>().await).into_iter().map(|it| it.record.link));
    links
        .extend(read(records.list::<Deleted<Recipe>>().await).into_iter().map(|it| it.record.link));
    links.into_iter().flatten().filter_map(hint).collect()
}

fn read<T>(records: records::Result<Vec<T>>) -> Vec<T> {
    records.unwrap_or_else(|error| {
        tracing::warn!(error = %chain(&error), "some records cannot be read");
        Vec::new()
    })
}

fn hint(link: Link) -> Option<Hint> {
    let Object { bucket, key } = link.path.parse().ok()?;
    Some(Hint { bucket, key, etag: link.etag.trim_matches('"').to_owned() })
}
