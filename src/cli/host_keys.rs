//! `host-keys`: prints the SSH host keys of a job.

use std::path::PathBuf;

use super::exit::{self, Exit};
use super::output;
use crate::contract::defaults;
use crate::ssh::hostkeys::PublicHostKeys;
use crate::workspace::Layout;

/// Print the SSH host keys of a job: fingerprints, SSHFP records or known_hosts lines
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job's directory
    #[arg(long, value_name = "DIR", env = "IMAGE_ROOT_PARENT", default_value = defaults::IMAGE_ROOT_PARENT)]
    image_root_parent: PathBuf,

    /// Print SSHFP resource records for this name (RFC 4255)
    #[arg(long, value_name = "HOST")]
    sshfp: Option<String>,

    /// Print lines for a known_hosts file; HOST or [HOST]:PORT
    #[arg(long, value_name = "HOST")]
    known_hosts: Option<String>,
}

pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let keys = PublicHostKeys::load(&Layout::new(&args.image_root_parent).host_keys())?;
    let mut text = String::new();
    if let Some(host) = &args.sshfp {
        text.extend(keys.sshfp(host).iter().map(|record| format!("{record}\n")));
    }
    if let Some(host) = &args.known_hosts {
        text.push_str(&keys.known_hosts(host));
    }
    if args.sshfp.is_none() && args.known_hosts.is_none() {
        let keys = keys.fingerprints().into_iter();
        text.extend(keys.map(|(kind, fingerprint)| format!("{kind} {fingerprint}\n")));
    }
    output::text(&text)?;
    Ok(exit::SUCCESS)
}
