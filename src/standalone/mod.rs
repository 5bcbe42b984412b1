//! The IMS API and an S3 endpoint on one machine, with a local job launcher.
//!
//! Called by `cli`. Rooms inside: `api` (what clients of IMS see), `records` (what is kept of it),
//! `s3` (the embedded object store), `objects` (how the API reaches whichever object store there
//! is), `launcher` (jobs as child processes), `keys` (credentials made at the first start).

mod config;
pub mod s3;

pub use config::{Config, Keys, S3Choice};

use tokio_util::sync::CancellationToken;

/// Serves until `shutdown` is cancelled; then ends the jobs, and returns within about a minute.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    config.check()?;
    shutdown.cancelled().await;
    Ok(())
}

/// Why standalone does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{what} would listen on {addr}, which others can reach: give a token, or listen on 127.0.0.1"
    )]
    TokenMissing { what: &'static str, addr: std::net::SocketAddr },
}
