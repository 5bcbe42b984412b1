//! `completions`: a completion script for a shell, on stdout.

use clap::CommandFactory;
use clap_complete::Shell;

use super::exit::{self, Exit};
use super::output;

/// Print a shell completion script
///
/// For example: ims-job-agent completions bash > /etc/bash_completion.d/ims-job-agent
#[derive(Debug, clap::Args)]
pub struct Args {
    shell: Shell,
}

pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let mut command = super::Cli::command();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "ims-job-agent", &mut script);
    output::text(&String::from_utf8_lossy(&script))?;
    Ok(exit::SUCCESS)
}
