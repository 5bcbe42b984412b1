//! The step that fetches the image of a customize job and unpacks it, in a container of its own.
//!
//! Its mounts end with it, so the image is unpacked and not mounted.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::contract::{Status, StepContract};
use crate::job::package::blocking;
use crate::job::report::{Outcome, Reporter};
use crate::job::{connect, customize};
use crate::net::{self, Trust};
use crate::s3::get::{self, FixedUrl};
use crate::telemetry::progress::{Meter, Unit};
use crate::telemetry::status::Board;
use crate::workspace::{self, Layout, Mode};

/// Fetches what `url` names to `contract.image_root_parent` and unpacks it. IMS is told if that
/// fails.
pub async fn fetch_image(contract: StepContract, url: Url, stop: CancellationToken) -> Outcome {
    let ims = match connect::ims(&contract.ims) {
        Ok(ims) => ims,
        Err(error) => return Outcome::without_ims(&error),
    };
    let job_id = contract.job_id.to_string();
    let board = Board::new(job_id.clone());
    let reporter = Arc::new(Reporter { ims, job_id: Some(job_id), board, stop });
    let step = run(contract, url, reporter.clone());
    reporter.conclude_step(step).await
}

async fn run(contract: StepContract, url: Url, reporter: Arc<Reporter>) -> anyhow::Result<()> {
    reporter.enter(Status::FetchingImage).await?;
    let layout = Layout::new(&contract.image_root_parent);
    layout.make_agent_dir().with_context(|| format!("cannot use {}", layout.parent().display()))?;
    let job_id = contract.job_id.to_string();
    if customize::left_image(&job_id, &layout)?.is_some() {
        tracing::info!("the image was unpacked by an earlier run of this step");
        return Ok(());
    }
    download(&contract, url, &layout.image(), &reporter).await?;
    let md5 = contract.md5.unwrap_or_default();
    let stop = reporter.stop.clone();
    blocking(move || {
        workspace::remove_stale_signals(layout.parent(), &layout.root())?;
        let meter = Meter::start("unpack", Unit::Percent, 100);
        let workspace = workspace::open(&workspace::Options {
            parent: layout.parent(),
            image: &layout.image(),
            image_md5: &md5,
            job_id: &job_id,
            mode: Mode::Unpack,
            meter: &meter,
            cancel: &stop,
        })
        .context("cannot unpack the image")?;
        Ok(workspace::remove_stale_signals(layout.parent(), &workspace.root())?)
    })
    .await
}

async fn download(
    contract: &StepContract,
    url: Url,
    path: &Path,
    reporter: &Reporter,
) -> anyhow::Result<()> {
    let http = net::client(&trust(contract), contract.ims.timeout)
        .context("cannot set up the client of the object store")?;
    let options = get::Options { md5: contract.md5.clone(), ..Default::default() };
    let meter = Meter::start("fetch", Unit::Bytes, 0);
    let source = Arc::new(FixedUrl::new(url));
    get::to_file(&http, source, path, &options, &meter, &reporter.stop)
        .await
        .context("cannot fetch the image")?;
    Ok(())
}

/// Pod templates do not tell this step how to judge the store, whose certificate often is nobody's.
/// With an md5 of IMS the bytes are proved by that.
fn trust(contract: &StepContract) -> Trust {
    match (&contract.store_trust, &contract.md5) {
        (Some(trust), _) => trust.clone(),
        (None, Some(_)) => Trust::Insecure,
        (None, None) => connect::gateway_trust(&contract.ims),
    }
}
