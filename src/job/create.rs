//! A create job: an image root is built from a recipe and published as an image.

use std::path::Path;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::entrance::Entrance;
use super::package::{blocking, package_job};
use super::{Job, connect, fetch, session};
use crate::contract::{Status, files, vars};
use crate::os::mount;
use crate::publish::Published;
use crate::recipe::ca_package::CaPackage;
use crate::recipe::repositories::{self, Patience};
use crate::recipe::unpack::Limits;
use crate::recipe::{description, kiwi, template, unpack};
use crate::s3::Store;
use crate::telemetry::chain;
use crate::telemetry::logs::Level;
use crate::telemetry::progress::{Meter, Unit};
use crate::workspace::{self, BuildDirectory, Inserted, Leave};

/// Variables that scripts of a recipe, which kiwi runs, have no business to see.
const SECRETS: [&str; 5] = [
    vars::DOWNLOAD_URL.name,
    vars::OAUTH_CLIENT_ID.name,
    vars::OAUTH_CLIENT_SECRET.name,
    vars::S3_ACCESS_KEY.name,
    vars::S3_SECRET_KEY.name,
];

/// Runs the job from the fetch to the published image.
pub(super) async fn run(job: &Job) -> anyhow::Result<Published> {
    let store = connect::store(&job.contract.s3, job.contract.ims.timeout)?;
    // The port and the keys are looked at before anything is done, as for customize.
    let debug = job.contract.debug.then(|| Entrance::prepare(job)).transpose()?;
    job.reporter.enter(Status::FetchingRecipe).await?;
    let directory = blocking({
        let (contract, job_id) = (job.contract.clone(), job.contract.job_id.to_string());
        move || {
            let parent = &contract.image_root_parent;
            let directory = BuildDirectory::open(parent, &contract.recipe.root, &job_id)?;
            // Nothing is built yet: whatever lies there is from before.
            workspace::remove_stale_signals(parent, &directory.root())?;
            Ok(directory)
        }
    })
    .await?;
    let result = create(job, &store, &directory, debug).await;
    let leave = if result.is_ok() { Leave::Nothing } else { Leave::Everything };
    if let Err(error) = blocking(move || Ok(directory.close(leave)?)).await {
        tracing::error!("the build cannot be removed: {}", chain(error.as_ref()));
    }
    result
}

async fn create(
    job: &Job,
    store: &Store,
    directory: &BuildDirectory,
    debug: Option<Entrance>,
) -> anyhow::Result<Published> {
    let repositories = recipe(job, store, directory).await?;

    job.reporter.enter(Status::WaitingForRepos).await?;
    let patience = Patience::new(job.contract.recipe.repository_timeout);
    let trust = connect::gateway_trust(&job.contract.ims);
    let (ims, stop) = (&job.reporter.ims, &job.reporter.stop);
    repositories::wait(&repositories, ims, &trust, patience, stop).await?;

    let ca_package = ca_package(job).await?;
    job.reporter.enter(Status::BuildingImage).await?;
    if let Err(error) = build(job, directory, ca_package).await {
        let error = error.context("the image cannot be built");
        build_failed(job);
        if let Some(debug) = debug
            && !job.reporter.stop.is_cancelled()
            && let Err(second) = look_at(job, directory, debug, &error).await
        {
            tracing::warn!("the look at the failed build ended: {}", chain(second.as_ref()));
        }
        return Err(error);
    }
    package_job(job, store, directory.root(), directory.layout().clone(), None).await
}

/// Fetches and unpacks the recipe and renders its templates; gives the repositories to wait for.
async fn recipe(job: &Job, store: &Store, directory: &BuildDirectory) -> anyhow::Result<Vec<Url>> {
    let archive = directory.layout().recipe_archive();
    fetch::recipe(job, store, &archive).await?;
    let (into, values) = (directory.recipe().to_owned(), job.options.template_dictionary.clone());
    let stop = job.reporter.stop.clone();
    blocking(move || prepare(&archive, &into, &values, &stop)).await
}

fn prepare(
    archive: &Path,
    into: &Path,
    values: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<Url>> {
    let unpacked = unpack::unpack(archive, into, &Limits::default(), stop)?;
    tracing::info!(entries = unpacked.entries, size = unpacked.size, "recipe unpacked");
    std::fs::remove_file(archive).context("cannot remove the recipe's archive")?;
    let values = template::load_values(values)?;
    template::render(into, &values).context("cannot fill in the templates of the recipe")?;
    let repositories = description::repositories(into)?;
    for source in &repositories.other {
        tracing::info!(source, "a repository that is not asked whether it is up");
    }
    Ok(repositories.http)
}

/// The site's CA as a package, where the site has one.
async fn ca_package(job: &Job) -> anyhow::Result<Option<CaPackage>> {
    let (certificate, directory) = (job.contract.ims.ca_cert.clone(), job.options.ca_rpm.clone());
    if !connect::has_ca(&job.contract.ims) {
        tracing::warn!(path = %certificate.display(), "no CA certificate to build into the image");
        return Ok(None);
    }
    blocking(move || Ok(Some(CaPackage::write(&certificate, &directory)?))).await
}

/// Runs kiwi, and looks whether the CA is in what it made.
async fn build(
    job: &Job,
    directory: &BuildDirectory,
    ca_package: Option<CaPackage>,
) -> anyhow::Result<()> {
    let meter = Meter::start("build", Unit::Percent, 100);
    job.reporter.board.watch(&meter);
    let (recipe, scratch, root) =
        (directory.recipe().to_owned(), directory.layout().agent(), directory.root());
    let (target, stop) = (job.contract.image_root_parent.clone(), job.reporter.stop.clone());
    let (keys, home) = (job.options.signing_keys.clone(), job.options.home.clone());
    let debug = job.contract.log_level == Level::Debug;
    let ca_cert = job.contract.ims.ca_cert.clone();
    blocking(move || {
        kiwi::build(&kiwi::Build {
            recipe: &recipe,
            target: &target,
            ca_package: ca_package.as_ref().map(|package| package.path.as_path()),
            signing_keys: &keys,
            scratch: &scratch,
            home: home.as_deref(),
            debug,
            secrets: &SECRETS,
            meter: &meter,
            cancel: &stop,
        })?;
        let Some(package) = &ca_package else { return Ok(()) };
        package.check_installed(&root)?;
        Ok(workspace::put_in_ca(&root, &ca_cert)?)
    })
    .await
}

/// Tells the other containers of the pod (contract section 3).
fn build_failed(job: &Job) {
    let path = job.contract.image_root_parent.join(files::BUILD_FAILED);
    if let Err(error) = std::fs::write(&path, "") {
        tracing::warn!(path = %path.display(), %error, "cannot tell that the build failed");
    }
}

/// Lets the user look at what is left of the build, until the user signals. Whatever the signal is,
/// the job fails.
async fn look_at(
    job: &Job,
    directory: &BuildDirectory,
    debug: Entrance,
    why: &anyhow::Error,
) -> anyhow::Result<()> {
    let reason = chain(why.as_ref());
    tracing::warn!("a shell opens on the build root, because {reason}");
    let entrance = debug.open(job).await?;
    let (root, agent) = (directory.root(), directory.layout().agent());
    let inserted = blocking({
        let (root, agent) = (root.clone(), agent.clone());
        let ca_cert = job.contract.ims.ca_cert.clone();
        move || {
            if !root.is_dir() {
                return Ok(None);
            }
            let resolv_conf = Path::new("/etc/resolv.conf");
            let inserted = Inserted::put_in(&root, &agent, &ca_cert, resolv_conf)?;
            Ok(Some(inserted))
        }
    })
    .await
    .context("cannot prepare the build root for the session")?;
    let site = session::Site {
        root: root.clone(),
        agent,
        purpose: format!("the build failed: {reason}"),
        script: None,
    };
    let served = entrance.attend(job, &site).await;
    blocking(move || {
        let Some(mut inserted) = inserted else { return Ok(()) };
        mount::unmount_below(&root)?;
        Ok(inserted.take_out()?)
    })
    .await
    .context("cannot take out of the build root what the session needed")?;
    served.map(drop)
}
