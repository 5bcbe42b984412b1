//! A create job: an image root is built from a recipe and published as an image.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::access::{UserAccess, Visit};
use super::package::{Package, package_job};
use super::report::Reporter;
use super::rescue::{self, Remains};

use super::{Job, connect, emulation, fetch, preflight, published};
use crate::attend::root::{ImageRoot, Worked};
use crate::attend::session::Site;
use crate::blocking::blocking;
use crate::contract::{ImsAccess, JobContract, Recipe, files, vars};

use crate::publish::Published;
use crate::recipe::ca_package::CaPackage;
use crate::recipe::description::Repositories;
use crate::recipe::repositories::{self, Patience};
use crate::recipe::unpack::Limits;
use crate::recipe::{description, kiwi, template, trust_store, unpack};
use crate::telemetry::chain;
use crate::telemetry::logs::Level;
use crate::telemetry::progress::{Meter, Unit};
use crate::telemetry::status::Board;
use crate::watch::Signal;
use crate::workspace::{self, BuildDirectory, Cleanup, Layout};
use ims_client::{Arch, Status};
use s3_client::Store;

/// Variables that scripts of a recipe, which kiwi runs, have no business to see.
const SECRETS: [&str; 5] = [
    vars::DOWNLOAD_URL.name,
    vars::OAUTH_CLIENT_ID.name,
    vars::OAUTH_CLIENT_SECRET.name,
    vars::S3_ACCESS_KEY.name,
    vars::S3_SECRET_KEY.name,
];

/// Runs the job from the fetch to the published image; or from what other containers have built.
pub(super) async fn run(job: &Job, store: &Store) -> anyhow::Result<Published> {
    let layout = Layout::new(&job.contract.image_root_parent);
    if BuildDirectory::is_begun(layout.parent())
        && let Some(published) =
            Box::pin(published::settle_first(&job.reporter, store, &layout.publication())).await?
    {
        published::discard(job).await;
        return Ok(published);
    }
    // The port and the keys are looked at before anything is done, as for customize.
    let debug = match job.contract.debug {
        true => Some(UserAccess::prepare(job).await?),
        false => None,
    };
    let directory = open_directory(job).await?;
    if !job.options.after_build {
        job.reporter.enter(Status::FetchingRecipe).await?;
        // Before hours of a build. After it, publishing holds the job instead.
        Box::pin(preflight::check(job, store)).await?;
    }
    let result = create(job, store, &directory, debug).await;
    let cleanup = if result.is_ok() { Cleanup::Remove } else { Cleanup::Keep };
    remove(directory, cleanup).await;
    result
}

/// What became of the job is not changed by what stays of its build.
async fn remove(directory: BuildDirectory, cleanup: Cleanup) {
    if let Err(error) = blocking(move || Ok(directory.close(cleanup)?)).await {
        tracing::error!("cannot remove the build: {}", chain(error.as_ref()));
    }
}

/// The place for the recipe and the build, or what other containers have built.
pub(super) async fn open_directory(job: &Job) -> anyhow::Result<BuildDirectory> {
    let (contract, after_build) = (job.contract.clone(), job.options.after_build);
    blocking(move || open(&contract, after_build)).await
}

fn open(contract: &JobContract, after_build: bool) -> anyhow::Result<BuildDirectory> {
    let (parent, job_id) = (&contract.image_root_parent, contract.job_id.to_string());
    if after_build {
        return Ok(BuildDirectory::built(parent, &job_id)?);
    }
    let directory = BuildDirectory::open(parent, &contract.recipe.root, &job_id)?;
    // Nothing is built yet: whatever lies there is from before.
    workspace::remove_stale_signals(parent, &directory.root())?;
    Ok(directory)
}

async fn create(
    job: &Job,
    store: &Store,
    directory: &BuildDirectory,
    debug: Option<UserAccess<'_>>,
) -> anyhow::Result<Published> {
    let built = match job.options.after_build {
        true => built_before(job, directory).await,
        false => build_here(job, store, directory).await?,
    };
    if let Err(error) = built {
        if let Some(mut debug) = debug
            && !job.reporter.stop.is_cancelled()
        {
            let serve = async |site| debug.serve(&site, Visit::of(job)).await;
            look_at(directory, &job.contract.ims.ca_cert, &error, serve).await;
        }
        return Err(error);
    }
    let package = Package {
        root: directory.root(),
        layout: directory.layout().clone(),
        engine: job.options.engine,
        base: None,
        image: job.contract.image.clone(),
    };
    let packaged = Box::pin(package_job(job, store, &package)).await;
    if let Err(error) = &packaged {
        let remains = Remains::Root { package: &package, packed: false };
        Box::pin(rescue::save(job, store, remains, error)).await;
    }
    packaged
}

/// From the recipe to an image root. The inner result is that of the build: where there is one, its
/// root can be looked at.
async fn build_here(
    job: &Job,
    store: &Store,
    directory: &BuildDirectory,
) -> anyhow::Result<anyhow::Result<()>> {
    recipe_and_repositories(job, store, directory).await?;
    let (contract, options, reporter) = (&job.contract, &job.options, &job.reporter);
    let ca_package = ca_package(&contract.ims, options.ca_rpm.clone()).await?;
    reporter.enter(Status::BuildingImage).await?;
    let building = Building {
        recipe: contract.recipe.root.clone(),
        ca_package,
        ca_cert: contract.ims.ca_cert.clone(),
        signing_keys: options.signing_keys.clone(),
        home: options.home.clone(),
        debug: contract.log_level == Level::Debug,
        arch: contract.image.arch,
        own_container: std::process::id() == 1,
    };
    let built = build(building, directory, &reporter.board, &reporter.stop).await;
    if let Err(error) = &built {
        report_failure(directory.layout().parent(), error);
    }
    Ok(built)
}

/// Everything before the build: the recipe lies there, and its repositories have answered.
pub(super) async fn recipe_and_repositories(
    job: &Job,
    store: &Store,
    directory: &BuildDirectory,
) -> anyhow::Result<()> {
    let (contract, options, reporter) = (&job.contract, &job.options, &job.reporter);
    let archive = directory.layout().recipe_archive();
    fetch::recipe(job, store, &archive).await?;
    let (recipe, values) = (contract.recipe.root.clone(), options.template_dictionary.clone());
    let repositories = prepare(archive, recipe, values, reporter).await?;
    reporter.enter(Status::WaitingForRepos).await?;
    wait_for(&repositories, &contract.ims, &contract.recipe, reporter).await
}

/// How the build of another container has ended.
async fn built_before(job: &Job, directory: &BuildDirectory) -> anyhow::Result<()> {
    let (root, parent) = (directory.root(), directory.layout().parent().to_owned());
    let ca_cert = job.contract.ims.ca_cert.clone();
    let has_ca = connect::has_ca(&job.contract.ims);
    blocking(move || {
        match std::fs::read_to_string(parent.join(files::BUILD_FAILED)) {
            Ok(why) if why.is_empty() => anyhow::bail!(
                "the image cannot be built: see the log of the container that builds it"
            ),
            Ok(why) => anyhow::bail!(why),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context("cannot determine whether the build failed"),
        }
        anyhow::ensure!(
            root.is_dir(),
            "there is no image root at {}: run the container that builds it first",
            root.display()
        );
        // A builder that is not this program leaves that to us.
        if has_ca { Ok(workspace::put_in_ca(&root, &ca_cert)?) } else { Ok(()) }
    })
    .await
}

/// Unpacks the recipe and renders its templates; gives the repositories to wait for.
pub(super) async fn prepare(
    archive: PathBuf,
    into: PathBuf,
    values: PathBuf,
    reporter: &Reporter,
) -> anyhow::Result<Repositories> {
    let stop = reporter.stop.clone();
    blocking(move || {
        unpack(&archive, &into, &stop)?;
        let values = template::load_values(&values)?;
        template::render(&into, &values).context("cannot render the templates of the recipe")?;
        Ok(description::repositories(&into)?)
    })
    .await
}

/// Unpacks the archive of a recipe, and removes it.
pub(super) fn unpack(archive: &Path, into: &Path, stop: &CancellationToken) -> anyhow::Result<()> {
    let unpacked = unpack::unpack(archive, into, &Limits::default(), stop)?;
    tracing::info!(entries = unpacked.entries, size = unpacked.size, "recipe unpacked");
    std::fs::remove_file(archive).context("cannot remove the recipe's archive")
}

/// Waits until all repositories that can be asked are up.
pub(super) async fn wait_for(
    repositories: &Repositories,
    ims: &ImsAccess,
    recipe: &Recipe,
    reporter: &Reporter,
) -> anyhow::Result<()> {
    for source in &repositories.other {
        tracing::info!(source, "not checking whether a repository is up");
    }
    let patience = Patience::new(recipe.repository_timeout);
    let (gateway, trust) = (&reporter.ims(), connect::gateway_trust(ims));
    Ok(repositories::wait(&repositories.http, gateway, &trust, patience, &reporter.stop).await?)
}

/// The site's CA as a package in `directory`, where the site has one.
pub(super) async fn ca_package(
    ims: &ImsAccess,
    directory: PathBuf,
) -> anyhow::Result<Option<CaPackage>> {
    let certificate = ims.ca_cert.clone();
    if !connect::has_ca(ims) {
        tracing::warn!(path = %certificate.display(), "no CA certificate to build into the image");
        return Ok(None);
    }
    blocking(move || Ok(Some(CaPackage::write(&certificate, &directory)?))).await
}

/// What kiwi is to build from.
pub(super) struct Building {
    /// The unpacked recipe.
    pub recipe: PathBuf,
    pub ca_package: Option<CaPackage>,
    pub ca_cert: PathBuf,
    pub signing_keys: PathBuf,
    pub home: Option<PathBuf>,
    /// Kiwi logs more of what it does.
    pub debug: bool,
    /// The image's.
    pub arch: Arch,
    /// Kiwi runs in a container that is the job's alone, which may be changed.
    pub own_container: bool,
}

/// Runs kiwi, and looks whether the CA is in what it made.
pub(super) async fn build(
    building: Building,
    directory: &BuildDirectory,
    board: &Board,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let meter = Meter::start("build", Unit::Percent, 100);
    board.watch(&meter);
    let (layout, root, stop) = (directory.layout().clone(), directory.root(), stop.clone());
    let Building { recipe, ca_package, ca_cert, signing_keys, home, debug, arch, own_container } =
        building;
    let built = blocking(move || {
        if ca_package.is_some() && own_container {
            trust_store::add(&ca_cert, &stop);
        }
        kiwi::build(&kiwi::Build {
            recipe: &recipe,
            target: layout.parent(),
            ca_package: ca_package.as_ref().map(|package| package.path.as_path()),
            signing_keys: &signing_keys,
            scratch: &layout.agent(),
            home: home.as_deref(),
            debug,
            arch: Some(arch).filter(|arch| !emulation::is_native(*arch)),
            secrets: &SECRETS,
            meter: &meter,
            cancel: &stop,
        })?;
        let Some(package) = &ca_package else { return Ok(()) };
        package.check_installed(&root)?;
        Ok(workspace::put_in_ca(&root, &ca_cert)?)
    });
    built.await.context("the image cannot be built")
}

/// Reports the error to the other containers of the pod (contract section 3).
pub(super) fn report_failure(parent: &Path, error: &anyhow::Error) {
    let path = parent.join(files::BUILD_FAILED);
    if let Err(error) = std::fs::write(&path, chain(error.as_ref())) {
        tracing::warn!(path = %path.display(), %error, "cannot report to the other containers \
            that the build failed");
    }
}

/// Lets the user look at what is left of the build, until the user signals. Whatever the signal is,
/// the job fails. `serve` lets the user in, and is over when all sessions have ended.
pub(super) async fn look_at(
    directory: &BuildDirectory,
    ca_cert: &Path,
    why: &anyhow::Error,
    serve: impl AsyncFnOnce(Site) -> anyhow::Result<Signal>,
) {
    let reason = chain(why.as_ref());
    tracing::warn!("opening a debug shell on the build root: {reason}");
    if let Err(second) = show(directory, ca_cert, reason, serve).await {
        tracing::warn!("the debug session of the failed build ended: {}", chain(second.as_ref()));
    }
}

async fn show(
    directory: &BuildDirectory,
    ca_cert: &Path,
    reason: String,
    serve: impl AsyncFnOnce(Site) -> anyhow::Result<Signal>,
) -> anyhow::Result<()> {
    let (root, layout) = (directory.root(), directory.layout().clone());
    let site = Site {
        root: root.clone(),
        agent: layout.agent(),
        purpose: format!("the build failed: {reason}"),
        script: None,
        check: None,
        trouble: None,
    };
    if !root.is_dir() {
        return serve(site).await.map(drop);
    }
    let build_root = ImageRoot {
        root,
        layout,
        ca_cert: ca_cert.to_owned(),
        name: "build root",
        boot_files: None,
        signals_are_stale: false,
    };
    let Worked { result, restored } = build_root.during(serve(site)).await?;
    restored.context("cannot remove the files of the session from the build root")?;
    result.map(drop)
}
