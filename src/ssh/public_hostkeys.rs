//! The public host keys of a job, for everything that shows them: the log, the status listener,
//! `ims-job-agent host-keys`, standalone.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use russh::keys::{HashAlg, PublicKey};
use sha2::{Digest, Sha256};

use super::hostkeys::{Error, file_error};

/// Files beside the private keys, as ssh-keygen names them.
const FILES: [&str; 2] = ["ssh_host_ed25519_key.pub", "ssh_host_rsa_key.pub"];

/// The ed25519 and the RSA key, in this order.
#[derive(Debug, Clone)]
pub struct PublicHostKeys(Vec<PublicKey>);

impl PublicHostKeys {
    pub(super) fn new(keys: Vec<PublicKey>) -> Self {
        Self(keys)
    }

    /// Reads what a job has left in its `directory` of host keys.
    pub fn load(directory: &Path) -> Result<Self, Error> {
        let load = |name: &str| {
            let path = directory.join(name);
            let text = std::fs::read_to_string(&path)
                .map_err(|source| file_error("read", &path, source))?;
            PublicKey::from_openssh(&text).map_err(|source| Error::Parse { path, source })
        };
        FILES.into_iter().map(load).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn save(&self, directory: &Path) -> Result<(), Error> {
        for (key, name) in self.0.iter().zip(FILES) {
            let path = directory.join(name);
            let text = key.to_openssh().expect("a key that was made or read encodes");
            std::fs::write(&path, text + "\n")
                .and_then(|()| std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)))
                .map_err(|source| file_error("write", &path, source))?;
        }
        Ok(())
    }

    /// Each key's type and `SHA256:...`, as ssh-keygen -l shows them.
    pub fn fingerprints(&self) -> Vec<(String, String)> {
        let fingerprint = |key: &PublicKey| key.fingerprint(HashAlg::Sha256).to_string();
        self.0.iter().map(|key| (key.algorithm().to_string(), fingerprint(key))).collect()
    }

    /// SSHFP resource records (RFC 4255, 6594, 7479) for `host`, SHA-256 only.
    pub fn sshfp(&self, host: &str) -> Vec<String> {
        let record = |key: &PublicKey| {
            let algorithm = if key.algorithm().is_rsa() { 1 } else { 4 };
            let blob = key.to_bytes().expect("a key that was made or read encodes");
            format!("{host} IN SSHFP {algorithm} 2 {}", hex::encode(Sha256::digest(blob)))
        };
        self.0.iter().map(record).collect()
    }

    /// Lines for a known_hosts file, `host` being a name, `[name]:port`, or several with commas.
    pub fn known_hosts(&self, host: &str) -> String {
        let line = |key: &PublicKey| {
            let text = key.to_openssh().expect("a key that was made or read encodes");
            format!("{host} {text}\n")
        };
        self.0.iter().map(line).collect()
    }
}
