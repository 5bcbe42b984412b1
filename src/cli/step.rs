//! `step`: one step of a job, in a container of its own.

use std::path::PathBuf;

use url::Url;

use super::exit::{self, Exit};
use crate::contract::StepContract;
use crate::job;

/// Do one step of a job, as the init containers of IMS's pod templates do
#[derive(Debug, clap::Subcommand)]
pub enum Step {
    /// Fetch the image of a customize job and unpack it
    FetchImage {
        /// The job's directory
        directory: PathBuf,
        /// A presigned URL of the root file system
        url: Url,
    },
}

pub async fn run(step: Step) -> anyhow::Result<Exit> {
    super::keep_secrets()?;
    let mut contract = match StepContract::from_vars(super::env_var) {
        Ok(contract) => contract,
        Err(faults) => {
            tracing::error!("{faults}");
            return Ok(exit::USAGE);
        }
    };
    let stop = super::shutdown_token()?;
    let outcome = match step {
        Step::FetchImage { directory, url } => {
            contract.image_root_parent = directory;
            job::fetch_image(contract, url, stop).await
        }
    };
    Ok(Exit::of_job(&outcome))
}
