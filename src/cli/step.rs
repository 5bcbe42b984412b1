//! `step`: one step of a job, in a container of its own.

use std::path::PathBuf;

use url::Url;

use super::environment;
use super::exit::Exit;
use crate::contract::{StepContract, files};
use crate::job::steps;

/// Run one step of a job, as the init containers of IMS's pod templates do
#[derive(Debug, clap::Subcommand)]
pub enum Step {
    /// Fetch the image of a customize job and unpack it
    FetchImage {
        /// The job's directory
        directory: PathBuf,
        /// A presigned URL of the root file system
        url: Url,
    },
    /// Fetch the recipe of a create job, unpack it and render its templates
    FetchRecipe {
        /// Directory to unpack the recipe to
        directory: PathBuf,
        /// A presigned URL of the recipe's archive
        url: Url,
        /// Values for the recipe's templates, JSON or YAML
        #[arg(long, value_name = "FILE", default_value = files::TEMPLATE_DICTIONARY)]
        template_dictionary: PathBuf,
    },
    /// Wait until all repositories of the unpacked recipe (RECIPE_ROOT_PARENT) respond
    WaitForRepositories,
    /// Build the package with the site's CA certificate
    BuildCaPackage {
        /// Directory for the package
        #[arg(long, value_name = "DIR", default_value = files::CA_RPM)]
        ca_rpm_dir: PathBuf,
    },
    /// Build the image root from the unpacked recipe with kiwi-ng
    ///
    /// If the build fails, the reason is written to the file `build_failed` and the exit code is
    /// 0: the container that packages the image ends the job.
    BuildImage {
        /// The unpacked recipe [default: RECIPE_ROOT_PARENT]
        recipe: Option<PathBuf>,
        /// The job's directory [default: IMAGE_ROOT_PARENT]
        directory: Option<PathBuf>,
        /// Directory of the public keys that sign packages of the recipe; every file in it is used
        #[arg(long, value_name = "DIR", default_value = files::SIGNING_KEYS)]
        signing_keys: PathBuf,
        /// Directory with the package of the site's CA certificate
        #[arg(long, value_name = "DIR", default_value = files::CA_RPM)]
        ca_rpm_dir: PathBuf,
    },
}

pub async fn run(step: Step) -> anyhow::Result<Exit> {
    super::keep_secrets()?;
    let contract = match StepContract::from_vars(environment::variable) {
        Ok(contract) => contract,
        Err(faults) => return super::refuse(faults).await,
    };
    let stop = super::shutdown_token()?;
    let (step, contract) = applied(step, contract);
    Ok(Exit::of_job(&steps::run(step, contract, stop).await))
}

/// What the step is to do; arguments win over the environment.
fn applied(step: Step, mut contract: StepContract) -> (steps::Step, StepContract) {
    let step = match step {
        Step::FetchImage { directory, url } => {
            contract.image_root_parent = directory;
            steps::Step::FetchImage { url }
        }
        Step::FetchRecipe { directory, url, template_dictionary } => {
            contract.recipe.root = directory;
            steps::Step::FetchRecipe { url, template_dictionary }
        }
        Step::WaitForRepositories => steps::Step::WaitForRepositories,
        Step::BuildCaPackage { ca_rpm_dir } => {
            steps::Step::BuildCaPackage { directory: ca_rpm_dir }
        }
        Step::BuildImage { recipe, directory, signing_keys, ca_rpm_dir } => {
            contract.image_root_parent = directory.unwrap_or(contract.image_root_parent);
            contract.recipe.root = recipe.unwrap_or(contract.recipe.root);
            let home = environment::home();
            steps::Step::BuildImage { ca_package: ca_rpm_dir, signing_keys, home }
        }
    };
    (step, contract)
}
