//! From the async rooms to work that blocks.

use anyhow::Context;

/// Runs blocking work beside the async rooms; a panic in it is an error.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("internal error, please report it")?
}
