//! `standalone`: the IMS API, an S3 endpoint and local jobs on one machine.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use secrecy::SecretString;
use url::Url;

use super::environment;
use super::exit::{self, Exit};
use crate::contract::vars;
use crate::jail::network::Network;
use crate::jail::{Capability, Rights};
use crate::standalone::{self, Config, Keys, S3Choice, here};
use linux::service;
use net::Trust;

/// Serve the IMS API and an object store and run jobs, all on this machine
///
/// The keys of the store come from S3_ACCESS_KEY and S3_SECRET_KEY. Without them the embedded
/// store generates a pair at its first start and logs the path of its file. Jobs add the CA
/// certificate in the file CA_CERT to images.
///
/// Clients send the token of the service; on the same machine the commands of this program find it
/// by themselves. Each job has its own token and keys, for its own record and images.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory for records, objects and jobs; created if missing
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Address of the IMS API
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8180")]
    ims_listen: SocketAddr,

    /// Address of the embedded S3 endpoint
    #[arg(
        long,
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:8190",
        conflicts_with = "s3_endpoint"
    )]
    s3_listen: SocketAddr,

    /// Rebuild the index of the embedded store from its blobs and exit; needed when the index is
    /// lost
    #[arg(long, conflicts_with = "s3_endpoint")]
    rebuild_index: bool,

    /// Use this object store instead of the embedded one; missing buckets are created
    #[arg(long, value_name = "URL")]
    s3_endpoint: Option<Url>,

    /// File with the bearer token that clients must send [default: the file token in the data
    /// directory, created at the first start]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Let sessions of jobs with require_dkms (IMS's default) mount file systems, as in a
    /// privileged pod. Their users can then become root on this machine
    #[arg(long)]
    allow_dkms: bool,

    /// Host name that clients may use for this service, besides the addresses that it listens on;
    /// may be repeated
    #[arg(long = "allowed-host", value_name = "NAME")]
    allowed_hosts: Vec<String>,

    /// Network access of the sessions of jobs
    ///
    /// Sessions share the network with this host. `filtered` needs cgroup v2 and BPF; without
    /// them, jobs with sessions fail with an error.
    #[arg(long, value_name = "WHAT", default_value = "filtered")]
    session_network: Network,

    /// Additional capabilities of the sessions of jobs
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    session_capability: Vec<Capability>,
}

pub async fn run(args: Args) -> anyhow::Result<Exit> {
    super::keep_secrets()?;
    service::become_service().context("cannot set the limit of open files")?;
    if args.rebuild_index {
        return rebuild_index(&args.data).await;
    }
    let keys = keys_from_environment();
    let s3 = match args.s3_endpoint {
        None => S3Choice::Embedded { listen: args.s3_listen, keys },
        Some(endpoint) => S3Choice::External {
            endpoint,
            keys: keys.context("--s3-endpoint needs S3_ACCESS_KEY and S3_SECRET_KEY to be set")?,
            trust: trust_from_environment()?,
        },
    };
    if let Some(path) = &args.token_file {
        warn_if_open(path);
    }
    let config = Config {
        // Jobs are started elsewhere, and must find their directories.
        data: absolute(&args.data)?,
        ims_listen: args.ims_listen,
        s3,
        token_file: args.token_file.as_deref().map(absolute).transpose()?,
        allowed_hosts: args.allowed_hosts,
        allow_dkms: args.allow_dkms,
        here: here::directory(environment::path("XDG_RUNTIME_DIR")),
        ca_cert: environment::variable(vars::CA_CERT.name)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
        sessions: Rights {
            network: args.session_network,
            refused_ports: Vec::new(),
            capabilities: args.session_capability,
        },
        agent_binary: std::env::current_exe()
            .context("cannot determine the path of this program")?,
    };
    standalone::run(config, super::shutdown_token()?).await?;
    Ok(exit::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the result of this command")]
async fn rebuild_index(data: &std::path::Path) -> anyhow::Result<Exit> {
    let report = standalone::rebuild_index(data).await?;
    println!("{} objects found by the notes in their blobs", report.objects);
    println!("{} parts of unfinished uploads", report.parts);
    println!(
        "{} objects of an older version found through the records; their metadata is lost",
        report.matched
    );
    println!("{} unknown blobs, moved to s3://boot-images/lost+found/*", report.lost);
    println!("{} incomplete objects, left out:", report.broken.len());
    for name in &report.broken {
        println!("    s3://{name}");
    }
    Ok(exit::SUCCESS)
}

fn keys_from_environment() -> Option<Keys> {
    Some(Keys {
        access: environment::variable(vars::S3_ACCESS_KEY.name)?,
        secret: SecretString::from(environment::variable(vars::S3_SECRET_KEY.name)?),
    })
}

fn trust_from_environment() -> anyhow::Result<Trust> {
    let text = environment::variable(vars::S3_SSL_VALIDATE.name)
        .or_else(|| environment::variable(vars::S3_SSL_VERIFY.name));
    text.map(|text| {
        crate::contract::s3_trust(&text)
            .map_err(|fault| anyhow::anyhow!("S3_SSL_VALIDATE={text:?} {fault}"))
    })
    .transpose()
    .map(Option::unwrap_or_default)
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot use {}", path.display()))
}

/// Only a warning: the file may be mounted with these permissions.
fn warn_if_open(path: &Path) {
    if std::fs::metadata(path).is_ok_and(|found| found.mode() & 0o077 != 0) {
        tracing::warn!(path = %path.display(), "other users can read the token file: chmod 600");
    }
}
