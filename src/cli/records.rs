//! What `image` and `recipe` have in common: fetching, checking, listing.

use std::path::PathBuf;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::exit::{self, Exit};
use super::output::{self, Output};
use crate::transfer::get::File;
use crate::transfer::verify::Report;
use crate::transfer::{Backend, verify};
use ims_client::Collection;

/// Commands that are the same for both.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Verify(Verify),
    Ls(Ls),
}

/// Download the artifacts of a record to a directory
///
/// Every file is verified. Files that are already complete are not downloaded again, and partial
/// downloads are resumed.
#[derive(Debug, clap::Args)]
pub struct Get {
    /// Id of the record
    pub id: String,

    /// Directory to download to; created if missing
    pub dir: PathBuf,
}

/// Check records and their artifacts in place
///
/// Etag, size and md5 of every object are compared with the record and the manifest. The exit code
/// is 1 if anything is wrong.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Ids of records
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

/// List the records
#[derive(Debug, clap::Args)]
pub struct Ls {
    /// List the records in the trash
    #[arg(long)]
    deleted: bool,
}

impl Command {
    pub async fn run(
        &self,
        collection: Collection,
        backend: &Backend,
        out: &Output,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Exit> {
        match self {
            Self::Verify(verify) => verify.run(collection, backend, out, cancel).await,
            Self::Ls(ls) => output::list(backend, collection, ls.deleted, out, cancel).await,
        }
    }
}

impl Get {
    /// Prints what was fetched.
    pub fn print(&self, files: &[File], out: &Output) -> anyhow::Result<Exit> {
        out.print(|| json!({ "id": self.id, "files": files }), || output::files(files))?;
        Ok(exit::SUCCESS)
    }
}

impl Verify {
    async fn run(
        &self,
        collection: Collection,
        backend: &Backend,
        out: &Output,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Exit> {
        let mut reports = Vec::new();
        for id in &self.ids {
            let verified = match collection {
                Collection::Recipes => verify::recipe(backend, id, cancel).await,
                _ => verify::image(backend, id, cancel).await,
            };
            reports.push(match verified {
                Err(error @ verify::Error::NoRecord(..)) => Report::missing(id, &error),
                verified => verified?,
            });
        }
        output::reports(&reports, out)
    }
}
