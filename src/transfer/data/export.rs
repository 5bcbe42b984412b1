//! An export to a directory: artifacts in parallel, each completely or not at all, then the
//! documents and the list of checksums. Existing correct files are kept.

use std::io;
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::layout::SUMS;
use super::plan::Plan;
use super::sums;
use crate::telemetry::progress::{Meter, Unit};
use crate::transfer::backend::Backend;
use crate::transfer::digest;
use crate::transfer::fetch::{self, fetch};

/// What was exported.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Records by document.
    pub records: std::collections::BTreeMap<&'static str, usize>,
    /// Files with artifacts.
    pub files: usize,
    /// Of those, the ones that were there before.
    pub files_kept: usize,
    pub bytes: u64,
    pub problems: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use the directory {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("{path}")]
    File { path: String, source: Box<fetch::Error> },
}

impl Summary {
    pub fn of(plan: &Plan) -> Self {
        Self {
            records: plan
                .documents
                .iter()
                .map(|(part, document)| (part.document(), document.records.len()))
                .collect(),
            files: plan.files.len(),
            files_kept: 0,
            bytes: plan.bytes(),
            problems: plan.problems.clone(),
        }
    }
}

/// Exports what `plan` says to `dir`, with `jobs` objects on their way at once.
pub async fn export(
    backend: &Backend,
    plan: &Plan,
    dir: &Path,
    jobs: usize,
    cancel: &CancellationToken,
) -> Result<Summary, Error> {
    make(dir)?;
    let meter = Meter::start("export", Unit::Bytes, plan.bytes().max(1));
    let fetches = plan.files.iter().map(|file| async {
        let path = dir.join(&file.path);
        make(path.parent().unwrap_or(dir))?;
        let fetched = fetch(&backend.store, &file.wanted, &path, &meter, cancel).await;
        let failed =
            |source: fetch::Error| Error::File { path: file.path.clone(), source: source.into() };
        Ok::<_, Error>((file.path.clone(), fetched.map_err(failed)?))
    });
    let fetched: Vec<_> = stream::iter(fetches).buffer_unordered(jobs.max(1)).try_collect().await?;
    meter.finish();
    let files_kept = fetched.iter().filter(|(_, it)| it.existed).count();
    let mut sums: Vec<(String, String)> =
        fetched.into_iter().map(|(path, it)| (path, it.sums.sha256)).collect();
    for (part, document) in &plan.documents {
        let name = part.document();
        let json = serde_json::to_vec(document).expect("JSON values can be written as JSON");
        let path = dir.join(name);
        let written = match fetch::write(&path, &json) {
            Ok(()) => digest::of_path(&path, cancel)
                .await
                .map_err(|source| fetch::Error::File { path, source }),
            Err(error) => Err(error),
        };
        let written = written.map_err(|source: fetch::Error| Error::File {
            path: name.to_owned(),
            source: source.into(),
        })?;
        sums.push((name.to_owned(), written.sha256));
    }
    let list = sums::list(&mut sums);
    let written = fetch::write(&dir.join(SUMS), list.as_bytes());
    written.map_err(|source| Error::File { path: SUMS.to_owned(), source: source.into() })?;
    Ok(Summary { files_kept, ..Summary::of(plan) })
}

fn make(dir: &Path) -> Result<(), Error> {
    let made = std::fs::create_dir_all(dir);
    made.map_err(|source| Error::Directory { path: dir.to_owned(), source })
}
