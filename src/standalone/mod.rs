//! The IMS API and an S3 endpoint on one machine, with a local job launcher.
//!
//! Called by `cli`. Rooms inside: `api` (what clients of IMS see), `records` (what is kept of it),
//! `s3` (the embedded object store), `objects` (how the API reaches whichever object store there
//! is), `launcher` (jobs as child processes), `cfs` (what configures images, layer by layer), `keys`
//! (credentials made at the first start), `grants` (what jobs may do), `data` (the directory of it all),
//! `serve` (connections and their limits), `here` (how clients on this machine find it).

mod api;
mod cfs;
mod config;
mod data;
mod database;
mod grants;
pub mod here;
mod keys;
mod launcher;
mod objects;
mod readiness;
mod rebuild;
mod records;
mod s3;
mod serve;
mod server;

pub use config::{Config, Keys, S3Choice};
pub use keys::{read as read_keys, read_token};
pub use rebuild::rebuild_index;
pub use s3::Report;
pub use server::{Error, Server};

use tokio_util::sync::CancellationToken;

/// Serves until `shutdown` is cancelled; then ends the jobs, and returns within about a minute.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    Server::start(config).await?.serve(shutdown).await
}
