//! `sessions`: the SSH server alone, beside an agent in another container of the pod.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::environment;
use super::exit::{self, Exit};
use super::run::serve_status;
use crate::contract::{SessionContract, files};
use crate::jail;
use crate::job::{self, Listen, SessionServer};
use crate::telemetry::chain;
use crate::telemetry::status::Board;

/// Serve the SSH sessions of a job whose agent runs in another container (`run --sessions
/// separate`)
///
/// This container shares the job's directory and the network with the agent's container. It needs
/// no credentials.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the SSH server [default: from SSHD_OPTIONS, else 0.0.0.0:22]
    #[arg(long, value_name = "ADDR:PORT")]
    ssh_listen: Option<Listen>,

    /// The user's public keys; the first of these files that exists is used
    #[arg(
        long,
        value_name = "FILE",
        default_values = [files::SHARED_AUTHORIZED_KEYS, files::AUTHORIZED_KEYS]
    )]
    authorized_keys: Vec<PathBuf>,

    /// The steps of a create job have ended before this starts: serve sessions only if the build
    /// failed
    #[arg(long)]
    after_build: bool,

    /// The job's directory [default: IMAGE_ROOT_PARENT]
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    directory: Option<Option<PathBuf>>,

    #[command(flatten)]
    rights: jail::Rights,

    /// Serve /healthz, /readyz and /metrics on this address
    #[arg(long, value_name = "ADDR:PORT")]
    status_listen: Option<SocketAddr>,
}

pub async fn run(args: Args) -> anyhow::Result<Exit> {
    let mut contract = match SessionContract::from_vars(environment::variable) {
        Ok(contract) => contract,
        Err(faults) => {
            tracing::error!("{faults}");
            return Ok(exit::USAGE);
        }
    };
    if let Some(Some(directory)) = args.directory {
        contract.image_root_parent = directory;
    }
    let stop = super::shutdown_token()?;
    let board = Board::new(contract.job_id.to_string());
    if let Some(address) = args.status_listen
        && let Err(error) = serve_status(address, board.clone(), stop.clone()).await
    {
        tracing::error!(
            "cannot serve the status, the sessions continue without it: {}",
            chain(error.as_ref())
        );
    }
    let server = SessionServer {
        listen: super::ssh_listen(args.ssh_listen, &contract.session),
        authorized_keys: args.authorized_keys,
        rights: args.rights,
        after_build: args.after_build,
    };
    Ok(Exit::of_end(job::serve_sessions(contract, server, board, stop).await))
}
