//! What the operator chooses; made by `cli` from arguments.

use std::net::SocketAddr;
use std::path::PathBuf;

use secrecy::SecretString;
use url::Url;

use super::Error;
use crate::jail::Rights;
use crate::net::Trust;

/// Everything standalone needs to know to start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where records, objects, keys and job directories live. Made if missing.
    pub data: PathBuf,
    /// Address of the IMS API. Jobs' SSH servers listen on its IP address too.
    pub ims_listen: SocketAddr,
    pub s3: S3Choice,
    /// What IMS clients must send as `Authorization: Bearer`. Needed when anything listens on an
    /// address that is not loopback.
    pub token: Option<SecretString>,
    /// The site's CA certificate, which jobs put into images.
    pub ca_cert: Option<PathBuf>,
    /// What sessions of jobs may do; they reach the ports of standalone itself at no address.
    pub sessions: Rights,
    /// The program started as `PROGRAM run ...` for each job: normally this very executable.
    pub agent_binary: PathBuf,
}

/// Where objects are kept.
#[derive(Debug, Clone)]
pub enum S3Choice {
    /// In `data`, served on `listen`. Without `keys` a pair is made at the first start and kept in
    /// `data/s3-keys.json`, readable by the owner alone.
    Embedded { listen: SocketAddr, keys: Option<Keys> },
    /// In a store that exists; the buckets `ims` and `boot-images` are made if they are missing.
    External { endpoint: Url, keys: Keys, trust: Trust },
}

/// A pair of S3 credentials.
#[derive(Debug, Clone)]
pub struct Keys {
    pub access: String,
    pub secret: SecretString,
}

impl Config {
    /// Refuses to serve strangers without a token.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.token.is_some() {
            return Ok(());
        }
        let s3 = match &self.s3 {
            S3Choice::Embedded { listen, .. } => Some(("the S3 endpoint", *listen)),
            S3Choice::External { .. } => None,
        };
        for (what, addr) in [Some(("the IMS API", self.ims_listen)), s3].into_iter().flatten() {
            if !addr.ip().is_loopback() {
                return Err(Error::TokenMissing { what, addr });
            }
        }
        Ok(())
    }
}
