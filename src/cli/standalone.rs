//! `standalone`: the IMS API, an S3 endpoint and local jobs on one machine.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use secrecy::SecretString;
use url::Url;

use super::exit::{self, Exit};
use crate::contract::vars;
use crate::net::Trust;
use crate::standalone::{self, Config, Keys, S3Choice};

/// Serve the IMS API and an object store, and run jobs, on this machine alone
///
/// The keys of the store come from S3_ACCESS_KEY and S3_SECRET_KEY. Without them the embedded store
/// makes a pair at its first start and says where it is kept. The file that CA_CERT names is the CA
/// certificate that jobs put into images.
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

    /// File with the bearer token that clients must send; needed to listen beyond loopback
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

pub async fn run(args: Args) -> anyhow::Result<Exit> {
    super::keep_secrets()?;
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
    let token = args.token_file.map(|path| read_token(&path)).transpose()?;
    let config = Config {
        // Jobs are started elsewhere, and must find their directories.
        data: std::path::absolute(&args.data)
            .with_context(|| format!("cannot use {} for data", args.data.display()))?,
        ims_listen: args.ims_listen,
        s3,
        token,
        ca_cert: super::env_var(vars::CA_CERT.name)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
        agent_binary: std::env::current_exe().context("cannot find this program's own file")?,
    };
    standalone::run(config, super::shutdown_token()?).await?;
    Ok(exit::SUCCESS)
}

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
        access: super::env_var(vars::S3_ACCESS_KEY.name)?,
        secret: SecretString::from(super::env_var(vars::S3_SECRET_KEY.name)?),
    })
}

fn trust_from_environment() -> anyhow::Result<Trust> {
    let text = super::env_var(vars::S3_SSL_VALIDATE.name)
        .or_else(|| super::env_var(vars::S3_SSL_VERIFY.name));
    text.map(|text| {
        crate::contract::s3_trust(&text)
            .map_err(|fault| anyhow::anyhow!("S3_SSL_VALIDATE={text:?} {fault}"))
    })
    .transpose()
    .map(Option::unwrap_or_default)
}

fn read_token(path: &std::path::Path) -> anyhow::Result<SecretString> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the token file {}", path.display()))?;
    let token = text.trim();
    anyhow::ensure!(!token.is_empty(), "the token file {} is empty", path.display());
    Ok(SecretString::from(token))
}
