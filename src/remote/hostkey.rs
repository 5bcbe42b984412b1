//! Verifies the host key of a node: against a known_hosts file that the site mounts beside its
//! private key, or against the first key of the node, which is stored in the job's directory.

use std::path::PathBuf;

use russh::client;
use russh::keys::known_hosts::{known_host_keys_path, learn_known_hosts_path};
use russh::keys::{HashAlg, PublicKey, PublicKeyOrCertificate};

use super::client::Target;
use super::error::Error;

/// The files that are asked, in this order; a key that none of them has for the host is written to
/// the last one.
#[derive(Debug, Clone)]
pub(super) struct KnownHosts {
    pub site: PathBuf,
    pub job: PathBuf,
}

/// What the library asks about the server's key.
pub(super) struct Verifier {
    pub target: Target,
    pub known: KnownHosts,
}

impl client::Handler for Verifier {
    type Error = HandshakeError;

    async fn check_server_key(
        &mut self,
        offered: &PublicKeyOrCertificate,
    ) -> Result<bool, HandshakeError> {
        // No authority is configured, so a certificate counts as the key in it.
        self.verify(&offered.public_key())?;
        Ok(true)
    }
}

impl Verifier {
    fn verify(&self, key: &PublicKey) -> Result<(), Error> {
        let Target { host, port } = &self.target;
        let fingerprint = key.fingerprint(HashAlg::Sha256);
        for path in [&self.known.site, &self.known.job] {
            let unusable = |source| Error::KnownHosts { path: path.clone(), source };
            let known = known_host_keys_path(host, *port, path).map_err(unusable)?;
            if known.iter().any(|(_, known)| known.key_data() == key.key_data()) {
                return Ok(());
            }
            if !known.is_empty() {
                return Err(Error::HostKey {
                    node: self.target.to_string(),
                    offered: format!("{} {fingerprint}", key.algorithm()),
                    known_hosts: path.clone(),
                });
            }
        }
        let path = &self.known.job;
        learn_known_hosts_path(host, *port, key, path)
            .map_err(|source| Error::KnownHosts { path: path.clone(), source })?;
        tracing::warn!(
            node = %self.target,
            kind = %key.algorithm(),
            %fingerprint,
            "accepted the unknown host key of the remote build node; this key is expected from \
             now on"
        );
        Ok(())
    }
}

/// The handshake fails in the library, or by our verdict.
#[derive(Debug)]
pub(super) enum HandshakeError {
    Ssh(russh::Error),
    Verdict(Error),
}

impl From<russh::Error> for HandshakeError {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
}

impl From<Error> for HandshakeError {
    fn from(error: Error) -> Self {
        Self::Verdict(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use russh::keys::PrivateKey;
    use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};

    fn key(seed: u8) -> PublicKey {
        let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&[seed; 32]));
        PrivateKey::new(pair, "").unwrap().public_key().clone()
    }

    fn verifier(dir: &std::path::Path, target: &str) -> Verifier {
        let known = KnownHosts { site: dir.join("site"), job: dir.join("job") };
        Verifier { target: target.parse().unwrap(), known }
    }

    #[test]
    fn the_first_key_is_kept_and_another_refused() {
        let dir = tempfile::tempdir().unwrap();
        for target in ["node", "node:2222", "[fd00::1]:22"] {
            let verifier = verifier(dir.path(), target);
            verifier.verify(&key(1)).unwrap();
            verifier.verify(&key(1)).unwrap();
            let error = verifier.verify(&key(2)).unwrap_err().to_string();
            assert!(error.contains("this may be an attack"), "{error}");
            assert!(error.contains(dir.path().join("job").to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn what_the_site_knows_is_not_learned() {
        let dir = tempfile::tempdir().unwrap();
        let line = format!("node {}\n", key(1).to_openssh().unwrap());
        std::fs::write(dir.path().join("site"), line).unwrap();
        let verifier = verifier(dir.path(), "node");
        assert!(verifier.verify(&key(2)).is_err());
        verifier.verify(&key(1)).unwrap();
        assert!(!dir.path().join("job").exists());
    }
}
