//! `ims-job-agent package`: packs and publishes a root without a session.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::base::Base;
use super::package::{Destination, Package, package};
use super::report::{Outcome, Reporter};
use super::{connect, published};
use crate::blocking::blocking;
use crate::contract::Engine;
use crate::contract::{ImageNames, ImsAccess, S3Access};
use crate::jail;
use crate::publish::Published;
use crate::telemetry::chain;
use crate::telemetry::status::Board;
use crate::workspace::{self, Cleanup, Inserted, Layout, State, Workspace};
use ims_client::Status;
use s3_client::Store;

/// A root to be packaged, and where its image goes.
#[derive(Debug)]
pub struct Repackaging {
    pub root: PathBuf,
    pub engine: Engine,
    pub image: ImageNames,
    /// The job whose result the image becomes.
    pub job_id: Option<String>,
    pub ims: ImsAccess,
    pub s3: S3Access,
}

/// Packs and publishes a root, and reports how it went as a job does.
pub async fn repackage(
    repackaging: Repackaging,
    stop: CancellationToken,
) -> anyhow::Result<Outcome> {
    let job_id = repackaging.job_id.clone();
    let board = Board::new(job_id.clone().unwrap_or_default());
    let reporter = match Reporter::connect(&repackaging.ims, job_id, board, stop) {
        Ok(reporter) => Arc::new(reporter),
        Err(error) => return Ok(Outcome::without_ims(&error)),
    };
    let work = {
        let reporter = reporter.clone();
        async move { run(&reporter, repackaging).await }
    };
    Ok(reporter.conclude(work).await)
}

async fn run(reporter: &Reporter, repackaging: Repackaging) -> anyhow::Result<Published> {
    let store = connect::store(&repackaging.s3, repackaging.ims.timeout)?;
    let (root, stop) = (repackaging.root.clone(), reporter.stop.clone());
    let opening = blocking(move || open(&root, &stop));
    if let Some(published) = Box::pin(published::earlier_result(reporter, &store)).await? {
        tidy(opening).await;
        return Ok(published);
    }
    reporter.enter(Status::PackagingArtifacts).await?;
    let (layout, left) = opening.await?;
    let to = Destination {
        image_name: repackaging.image.name.clone(),
        arch: repackaging.image.arch,
        bucket: repackaging.s3.bucket,
        job_id: repackaging.job_id,
    };
    let request = Package {
        root: repackaging.root,
        layout: layout.clone(),
        engine: repackaging.engine,
        base: left.as_ref().map(|workspace| Arc::new(Base::of(workspace, None))),
        image: repackaging.image,
    };
    let result = match settle_build(reporter, &store, &layout).await {
        Ok(None) => package(&request, &to, reporter, &store).await,
        Ok(Some(published)) => Ok(published),
        Err(error) => Err(error),
    };
    let cleanup = if result.is_ok() { Cleanup::Remove } else { Cleanup::Keep };
    blocking(move || close(&layout, left, cleanup)).await?;
    result
}

/// Removes what a killed `package` has left that had published its image.
async fn tidy(opening: impl Future<Output = anyhow::Result<(Layout, Option<Workspace>)>>) {
    let closed = async {
        let (layout, left) = opening.await?;
        blocking(move || close(&layout, left, Cleanup::Remove)).await
    };
    if let Err(error) = closed.await {
        tracing::warn!("what is left of the job is not removed: {}", chain(error.as_ref()));
    }
}

/// What a killed agent has begun to publish of a build: its directory lies two levels above the root.
async fn settle_build(
    reporter: &Reporter,
    store: &Store,
    layout: &Layout,
) -> anyhow::Result<Option<Published>> {
    let above = layout.parent().parent().map(Layout::new);
    let above = above.filter(|it| it.build() == layout.parent() && it.publication().exists());
    let Some(above) = above else { return Ok(None) };
    let (parent, job_id) = (above.parent().to_owned(), reporter.job_id.clone());
    let claim = move || Ok(workspace::claim(&parent, &job_id.unwrap_or_default())?);
    // It may live.
    let _claim = blocking(claim).await?;
    Box::pin(published::settle(reporter, store, &above.publication())).await
}

/// Where the squashfs is put, and the workspace if a job has left one there.
fn open(root: &Path, stop: &CancellationToken) -> anyhow::Result<(Layout, Option<Workspace>)> {
    let root = root.canonicalize().with_context(|| format!("no image root {}", root.display()))?;
    let parent = root.parent().context("cannot package the root directory of this machine")?;
    let layout = Layout::new(parent);
    let left = layout.root() == root && State::load(&layout)?.is_some();
    let workspace = left.then(|| workspace::reopen(parent, stop)).transpose()?;
    if let Some(mut inserted) = Inserted::load(&root, &layout.agent())? {
        // The agent that put it in did not live to take it out.
        inserted.take_out()?;
    }
    jail::remove_leftovers(&layout.agent())
        .context("cannot remove the files of killed sessions from the image")?;
    layout.make_agent_dir().with_context(|| format!("cannot write to {}", parent.display()))?;
    Ok((layout, workspace))
}

fn close(layout: &Layout, left: Option<Workspace>, cleanup: Cleanup) -> anyhow::Result<()> {
    match left {
        Some(mut workspace) => Ok(workspace.close(cleanup)?),
        None if cleanup == Cleanup::Remove => std::fs::remove_dir_all(layout.agent())
            .with_context(|| format!("cannot remove {}", layout.agent().display())),
        None => Ok(()),
    }
}
