//! `completions`: a completion script for a shell, on stdout.

use clap::CommandFactory;
use clap_complete::Shell;

use super::exit::{self, Exit};

/// Print a shell completion script
///
/// For example: ims-job-agent completions bash > /etc/bash_completion.d/ims-job-agent
#[derive(Debug, clap::Args)]
pub struct Args {
    shell: Shell,
}

pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let mut command = super::Cli::command();
    clap_complete::generate(args.shell, &mut command, "ims-job-agent", &mut std::io::stdout());
    Ok(exit::SUCCESS)
}
