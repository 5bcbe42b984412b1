//! The settings of the operator; `cli` creates them from arguments.

use std::net::SocketAddr;
use std::path::PathBuf;

use secrecy::SecretString;
use url::Url;

use crate::jail::Rights;
use net::Trust;

/// Everything standalone needs to know to start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where records, objects, keys and job directories live. Made if missing.
    pub data: PathBuf,
    /// Address of the IMS API. Jobs' SSH servers listen on its IP address too.
    pub ims_listen: SocketAddr,
    pub s3: S3Choice,
    /// The file with what IMS clients must send as `Authorization: Bearer`. Without one a token is created
    /// at the first start and kept in `data/token`, readable only by the owner.
    pub token_file: Option<PathBuf>,
    /// Names that requests may call us by, beside the addresses that are listened on and loopback.
    pub allowed_hosts: Vec<String>,
    /// Sessions of jobs that ask for DKMS may mount, with which they can be root on this machine.
    pub allow_dkms: bool,
    /// Where clients on this machine find out about us.
    pub here: Option<PathBuf>,
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
    /// In `data`, served on `listen`. Without `keys` a pair is created at the first start and kept in
    /// `data/s3-keys.json`, readable only by the owner.
    Embedded { listen: SocketAddr, keys: Option<Keys> },
    /// In a store that exists; the buckets `ims` and `boot-images` are created if they are missing.
    External { endpoint: Url, keys: Keys, trust: Trust },
}

/// A pair of S3 credentials.
#[derive(Debug, Clone)]
pub struct Keys {
    pub access: String,
    pub secret: SecretString,
}
