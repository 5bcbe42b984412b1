//! Steps of a job that are done in containers of their own, as the pods of IMS's templates have it:
//! fetching and unpacking the image of a customize job; fetching the recipe of a create job, waiting
//! for its repositories, making the package of the CA, building. Each reports the job status that is
//! its own, and `error` if it fails.
//!
//! A container's mounts end with it, so the image is unpacked and not mounted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::blocking::blocking;
use crate::contract::StepContract;
use crate::job::report::{Outcome, Reporter};
use crate::job::{connect, create, customize, emulation, published};
use crate::recipe::ca_package::CaPackage;
use crate::recipe::description;
use crate::telemetry::chain;
use crate::telemetry::logs::Level;
use crate::telemetry::progress::{Meter, Unit};
use crate::telemetry::status::Board;
use crate::workspace::{self, BuildDirectory, Cleanup, Mode};
use ims_client::Status;
use net::{Policy, Trust};
use s3_client::get::{self, FixedUrl};

/// What a container does of the job.
#[derive(Debug)]
pub enum Step {
    /// Fetches the image to `contract.image_root_parent` and unpacks it there.
    FetchImage { url: Url },
    /// Fetches the recipe, unpacks it to `contract.recipe.root` and renders its templates with the
    /// values of `template_dictionary`.
    FetchRecipe { url: Url, template_dictionary: PathBuf },
    /// Waits until the repositories of the recipe are up.
    WaitForRepositories,
    /// Makes the package of the CA certificate.
    BuildCaPackage { directory: PathBuf },
    /// Builds the image root. A failed build is reported to the container that packages, and is not
    /// a failure of this one: the job continues there.
    BuildImage { ca_package: PathBuf, signing_keys: PathBuf, home: Option<PathBuf> },
}

/// Does the step. Reports the status of the job to IMS, and a failure of the step.
pub async fn run(step: Step, contract: StepContract, stop: CancellationToken) -> Outcome {
    let job_id = contract.job_id.to_string();
    let board = Board::new(job_id.clone());
    let reporter = match Reporter::connect(&contract.ims, Some(job_id), board, stop) {
        Ok(reporter) => Arc::new(reporter),
        Err(error) => return Outcome::without_ims(&error),
    };
    let work = {
        let reporter = reporter.clone();
        async move {
            published::ensure_open(&reporter).await?;
            match step {
                Step::FetchImage { url } => fetch_image(contract, url, &reporter).await,
                Step::FetchRecipe { url, template_dictionary } => {
                    fetch_recipe(contract, url, template_dictionary, &reporter).await
                }
                Step::WaitForRepositories => wait_for_repositories(contract, &reporter).await,
                Step::BuildCaPackage { directory } => {
                    create::ca_package(&contract.ims, directory).await.map(drop)
                }
                Step::BuildImage { ca_package, signing_keys, home } => {
                    build_image(contract, ca_package, signing_keys, home, &reporter).await
                }
            }
        }
    };
    reporter.conclude_step(work).await
}

async fn fetch_image(contract: StepContract, url: Url, reporter: &Reporter) -> anyhow::Result<()> {
    let (parent, job_id) = (contract.image_root_parent.clone(), contract.job_id.to_string());
    let (claim, left) = blocking(move || {
        let claim = workspace::claim(&parent, &job_id)?;
        let left = customize::left_image(&claim)?;
        Ok((claim, left))
    })
    .await?;
    reporter.enter(Status::FetchingImage).await?;
    if left.is_some() {
        tracing::info!("the image was unpacked by an earlier run of this step");
        return Ok(());
    }
    let layout = claim.layout().clone();
    download(&contract, url, &layout.image(), reporter).await.context("cannot fetch the image")?;
    let md5 = contract.md5.unwrap_or_default();
    let (board, stop) = (reporter.board.clone(), reporter.stop.clone());
    blocking(move || {
        workspace::remove_stale_signals(layout.parent(), &layout.root())?;
        let options = workspace::Options {
            image: &layout.image(),
            image_md5: &md5,
            mode: Mode::Unpack,
            board: Some(&board),
            cancel: &stop,
        };
        let workspace = workspace::open(claim, &options).context("cannot unpack the image")?;
        Ok(workspace::remove_stale_signals(layout.parent(), &workspace.root())?)
    })
    .await
}

async fn fetch_recipe(
    contract: StepContract,
    url: Url,
    template_dictionary: PathBuf,
    reporter: &Reporter,
) -> anyhow::Result<()> {
    reporter.enter(Status::FetchingRecipe).await?;
    let (into, job_id) = (contract.recipe.root.clone(), contract.job_id.to_string());
    let archive = blocking({
        let into = into.clone();
        move || Ok(workspace::claim_recipe_directory(&into, &job_id)?)
    })
    .await?;
    download(&contract, url, &archive, reporter).await.context("cannot fetch the recipe")?;
    // Errors of the description are reported here, not by the container that waits.
    create::prepare(archive, into, template_dictionary, reporter).await.map(drop)
}

async fn wait_for_repositories(contract: StepContract, reporter: &Reporter) -> anyhow::Result<()> {
    reporter.enter(Status::WaitingForRepos).await?;
    let recipe = contract.recipe.root.clone();
    let repositories = blocking(move || Ok(description::repositories(&recipe)?)).await?;
    create::wait_for(&repositories, &contract.ims, &contract.recipe, reporter).await
}

async fn build_image(
    contract: StepContract,
    ca_package: PathBuf,
    signing_keys: PathBuf,
    home: Option<PathBuf>,
    reporter: &Reporter,
) -> anyhow::Result<()> {
    reporter.enter(Status::BuildingImage).await?;
    emulation::prepare(contract.arch).await?;
    let has_ca = connect::has_ca(&contract.ims);
    let (parent, ca_cert) = (contract.image_root_parent.clone(), contract.ims.ca_cert.clone());
    let job_id = contract.job_id.to_string();
    let (directory, ca_package) = blocking({
        let ca_cert = ca_cert.clone();
        move || {
            let directory = BuildDirectory::without_recipe(&parent, &job_id)?;
            workspace::remove_stale_signals(&parent, &directory.root())?;
            let found = has_ca.then(|| CaPackage::find(&ca_cert, &ca_package)).transpose()?;
            Ok((directory, found))
        }
    })
    .await?;
    let building = create::Building {
        recipe: contract.recipe.root,
        ca_package,
        ca_cert,
        signing_keys,
        home,
        debug: contract.log_level == Level::Debug,
        arch: contract.arch,
        own_container: std::process::id() == 1,
    };
    let built = create::build(building, &directory, &reporter.board, &reporter.stop).await;
    directory.close(Cleanup::Keep)?;
    match built {
        Err(error) if !reporter.stop.is_cancelled() => {
            tracing::error!("{}", chain(error.as_ref()));
            create::report_failure(&contract.image_root_parent, &error);
            Ok(())
        }
        built => built,
    }
}

async fn download(
    contract: &StepContract,
    url: Url,
    path: &Path,
    reporter: &Reporter,
) -> anyhow::Result<()> {
    let policy = Policy::within(contract.ims.timeout);
    let http = net::client(&trust(contract), policy.answer)
        .context("cannot set up the client of the object store")?;
    let options = get::Options { md5: contract.md5.clone(), policy, ..Default::default() };
    let meter = Meter::start("fetch", Unit::Bytes, 0);
    let source = Arc::new(FixedUrl::new(url));
    get::to_file(&http, source, path, &options, &meter, &reporter.stop).await?;
    meter.finish();
    Ok(())
}

/// Pod templates do not configure this step to verify the store, whose certificate often has no
/// known CA. With an md5 of IMS the bytes are proved by that.
fn trust(contract: &StepContract) -> Trust {
    match (&contract.store_trust, &contract.md5) {
        (Some(trust), _) => trust.clone(),
        (None, Some(_)) => Trust::Insecure,
        (None, None) => connect::gateway_trust(&contract.ims),
    }
}
