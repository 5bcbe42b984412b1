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

/// Serve the IMS API and an object store, and run jobs, on this machine alone
///
/// The keys of the store come from S3_ACCESS_KEY and S3_SECRET_KEY. Without them the embedded store
/// makes a pair at its first start and says where it is kept. The file that CA_CERT names is the CA
/// certificate that jobs put into images.
///
/// Clients send the token of the service; the commands of this program find it by themselves on the same
/// machine. Each job has a token and keys of its own, for its own record and images.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the records, objects and jobs; made if missing
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

    /// Make the index of the embedded store anew from its blobs, and end; needed when the index is lost
    #[arg(long, conflicts_with = "s3_endpoint")]
    rebuild_index: bool,

    /// Use this object store instead of the embedded one; buckets are made if missing
    #[arg(long, value_name = "URL")]
    s3_endpoint: Option<Url>,

    /// File with the bearer token that clients must send [default: the file token in the data
    /// directory, made at the first start]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Let sessions of jobs with require_dkms (IMS's default) mount, as in a privileged pod: their users
    /// can then be root on this machine
    #[arg(long)]
    allow_dkms: bool,

    /// Name by which clients may call this service, beside the addresses that it listens on; may be
    /// repeated
    #[arg(long = "allowed-host", value_name = "NAME")]
    allowed_hosts: Vec<String>,

    /// What of the network the sessions of jobs get
    ///
    /// They share it with this host. `filtered` takes cgroup v2 and BPF of the kernel; where they cannot be
    /// had, jobs with sessions fail and say so.
    #[arg(long, value_name = "WHAT", default_value = "filtered")]
    session_network: Network,

    /// What sessions of jobs may do besides
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
        agent_binary: std::env::current_exe().context("cannot find this program's own file")?,
    };
    standalone::run(config, super::shutdown_token()?).await?;
    Ok(exit::SUCCESS)
}

#[allow(clippy::print_stdout, reason = "the result of this command")]
async fn rebuild_index(data: &std::path::Path) -> anyhow::Result<Exit> {
    let report = standalone::rebuild_index(data).await?;
    println!("{} objects found by what they say of themselves", report.objects);
    println!("{} parts of unfinished uploads", report.parts);
    println!(
        "{} objects of an older version found by the records; their metadata is lost",
        report.matched
    );
    println!("{} blobs that nobody knows, now s3://boot-images/lost+found/*", report.lost);
    println!("{} objects that are not whole, and left out", report.broken.len());
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

/// A secret that others can read is the operator's to mend; it may be mounted so.
fn warn_if_open(path: &Path) {
    if std::fs::metadata(path).is_ok_and(|found| found.mode() & 0o077 != 0) {
        tracing::warn!(path = %path.display(), "other users can read the token file: chmod 600");
    }
}
