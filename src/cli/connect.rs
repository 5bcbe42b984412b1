//! Where IMS and the store are: the variables of a job, or flags of the same meaning. Shared by the
//! commands that talk to IMS and a store outside a job.

use std::path::PathBuf;

use anyhow::Context;

use super::environment;
use super::exit::{self, Exit};
use super::local::Local;
use crate::contract::vars::{self, Var};
use crate::contract::{ImsAccess, S3Access};
use crate::job::connect;
use crate::telemetry::chain;
use crate::transfer::Backend;

/// Flags override variables. Secrets come only from variables or files. Accepted before and after a
/// subcommand.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// Base URL of IMS [default: IMS_URL, or a standalone server on this machine, or the API
    /// gateway]
    #[arg(long, global = true, value_name = "URL")]
    ims_url: Option<String>,

    /// PEM file with the CA of the API gateway [default: CA_CERT]
    #[arg(long, global = true, value_name = "FILE")]
    ca_cert: Option<String>,

    /// Directory with the files client-id, client-secret and endpoint [default: OAUTH_CONFIG_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    oauth_config_dir: Option<String>,

    /// File with a bearer token for IMS, used instead of OAuth [default: IMS_TOKEN_FILE, or the
    /// token of a standalone server on this machine]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// URL of the object store [default: S3_ENDPOINT]
    #[arg(long, global = true, value_name = "URL")]
    s3_endpoint: Option<String>,

    /// Access key of the store; the secret key is read from S3_SECRET_KEY [default: S3_ACCESS_KEY]
    #[arg(long, global = true, value_name = "KEY")]
    s3_access_key: Option<String>,

    /// Bucket for new images [default: S3_BUCKET, or boot-images]
    #[arg(long, global = true, value_name = "NAME")]
    s3_bucket: Option<String>,

    /// How to verify the store's certificate: True, False or a CA file [default: S3_SSL_VALIDATE]
    #[arg(long, global = true, value_name = "HOW")]
    s3_ssl_validate: Option<String>,

    /// Seconds to wait for IMS and the store, at most 180 where no work depends on them [default:
    /// 720]
    #[arg(long, global = true, value_name = "SECONDS")]
    timeout: Option<String>,
}

impl Connection {
    /// Clients of both; `Err` with the exit code when the environment is wrong, which is logged.
    pub fn backend(&self) -> anyhow::Result<Result<Backend, Exit>> {
        let (ims, s3) = match self.access()? {
            Ok(access) => access,
            Err(exit) => return Ok(Err(exit)),
        };
        let store = connect::store(&s3, ims.timeout)?;
        let publications = publications();
        Ok(Ok(Backend { ims: connect::ims(&ims)?, store, bucket: s3.bucket, publications }))
    }

    /// How both are reached; `Err` as of [`Self::backend`].
    pub fn access(&self) -> anyhow::Result<Result<(ImsAccess, S3Access), Exit>> {
        super::keep_secrets()?;
        let token_file = self.token_file()?;
        // A token without the name of an IMS is for the default one.
        let elsewhere = token_file.is_some() && self.lookup(vars::IMS_URL.name).is_none();
        let local =
            if elsewhere { Ok(Local::default()) } else { Local::find(|it| self.lookup(it)) };
        let local = match local {
            Ok(local) => local,
            Err(error) => {
                tracing::error!("{}", chain(error.as_ref()));
                return Ok(Err(exit::USAGE));
            }
        };
        let lookup = |name: &str| {
            let said = self.lookup(name).filter(|text| !text.trim().is_empty());
            said.or_else(|| local.get(name))
        };
        match (ImsAccess::from_vars(lookup), S3Access::from_vars(lookup)) {
            (Ok(ims), Ok(s3)) => {
                let token_file = token_file.or(local.token_file);
                Ok(Ok((ImsAccess { token_file, ..ims }, s3)))
            }
            (ims, s3) => {
                for faults in [ims.err(), s3.err()].into_iter().flatten() {
                    tracing::error!("{faults}");
                }
                Ok(Err(exit::USAGE))
            }
        }
    }

    /// The certificate that images get (contract section 4). [`Self::backend`] reports what is wrong.
    pub fn ca_cert(&self) -> PathBuf {
        ImsAccess::from_vars(|name| self.lookup(name)).map(|ims| ims.ca_cert).unwrap_or_default()
    }

    /// The file that was named, by its whole path.
    fn token_file(&self) -> anyhow::Result<Option<PathBuf>> {
        let variable = || environment::variable("IMS_TOKEN_FILE").filter(|path| !path.is_empty());
        let named = self.token_file.clone().or_else(|| variable().map(PathBuf::from));
        let whole = |path: PathBuf| {
            std::path::absolute(&path).with_context(|| format!("cannot use {}", path.display()))
        };
        named.map(whole).transpose()
    }

    fn lookup(&self, name: &str) -> Option<String> {
        self.flag(name).or_else(|| environment::variable(name))
    }

    fn flag(&self, name: &str) -> Option<String> {
        let flags: [(&Var, &Option<String>); 8] = [
            (&vars::IMS_URL, &self.ims_url),
            (&vars::CA_CERT, &self.ca_cert),
            (&vars::OAUTH_CONFIG_DIR, &self.oauth_config_dir),
            (&vars::S3_ENDPOINT, &self.s3_endpoint),
            (&vars::S3_ACCESS_KEY, &self.s3_access_key),
            (&vars::S3_BUCKET, &self.s3_bucket),
            (&vars::S3_SSL_VALIDATE, &self.s3_ssl_validate),
            (&vars::IMS_PYTHON_HELPER_TIMEOUT, &self.timeout),
        ];
        flags.into_iter().find(|(var, _)| var.name == name).and_then(|(_, flag)| flag.clone())
    }
}

/// Where commands record what they publish: in the state directory of the system, or of the user
/// (XDG).
fn publications() -> PathBuf {
    let state = match linux::capability::is_root() {
        true => PathBuf::from("/var/lib"),
        false => environment::variable("XDG_STATE_HOME").map(PathBuf::from).unwrap_or_else(|| {
            environment::home().unwrap_or_else(std::env::temp_dir).join(".local/state")
        }),
    };
    state.join("ims-job-agent/publications")
}
