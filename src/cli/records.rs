//! What `image` and `recipe` have in common: fetching, checking, listing.

use std::path::PathBuf;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::connect::Connection;
use super::exit::{self, Exit};
use super::output::{self, Output};
use crate::ims::Collection;
use crate::transfer::{Site, get, verify};

/// Fetch what belongs to a record into a directory
///
/// Every file is verified. What is there already and right is not fetched again, and a file that was cut
/// off is gone on with.
#[derive(Debug, clap::Args)]
pub struct Get {
    /// Id of the record
    id: String,

    /// Where to; made if it does not exist
    dir: PathBuf,

    #[command(flatten)]
    pub connection: Connection,
}

/// Check records and what belongs to them where they are
///
/// Etag, size and md5 of every object are compared with what record and manifest say. The exit code is 1
/// if anything is wrong.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// Ids of records
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,

    #[command(flatten)]
    pub connection: Connection,
}

/// List the records
#[derive(Debug, clap::Args)]
pub struct Ls {
    /// List those in the trash
    #[arg(long)]
    deleted: bool,

    #[command(flatten)]
    pub connection: Connection,
}

impl Get {
    pub async fn run(
        &self,
        collection: Collection,
        site: &Site,
        out: &Output,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Exit> {
        let files = match collection {
            Collection::Recipes => get::recipe(site, &self.id, &self.dir, cancel).await?,
            _ => get::image(site, &self.id, &self.dir, cancel).await?,
        };
        out.print(|| json!({ "id": self.id, "files": files }), || output::files(&files));
        Ok(exit::SUCCESS)
    }
}

impl Verify {
    pub async fn run(
        &self,
        collection: Collection,
        site: &Site,
        out: &Output,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Exit> {
        let mut reports = Vec::new();
        for id in &self.ids {
            reports.push(match collection {
                Collection::Recipes => verify::recipe(site, id, cancel).await?,
                _ => verify::image(site, id, cancel).await?,
            });
        }
        Ok(output::reports(&reports, out))
    }
}

impl Ls {
    pub async fn run(
        &self,
        collection: Collection,
        site: &Site,
        out: &Output,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Exit> {
        output::list(site, collection, self.deleted, out, cancel).await
    }
}
