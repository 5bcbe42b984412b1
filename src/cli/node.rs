//! `node`: the agent of a pod starts this on a remote build node. Not for interactive use.

use std::path::PathBuf;

use super::environment;
use super::exit::Exit;
use crate::job;

/// Do the work of a job for the agent at the other end of stdin and stdout
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job's directory on this host
    directory: PathBuf,
}

pub async fn run(args: Args) -> anyhow::Result<Exit> {
    super::keep_secrets()?;
    let stop = super::shutdown_token()?;
    Ok(Exit::of_end(job::work_for_pod(args.directory, environment::home(), stop).await?))
}
