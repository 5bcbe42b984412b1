//! The host keys of a job: generated once, and stored in the job's directory so that a restarted
//! container has the same keys. The public keys are beside them (`public_hostkeys`).

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use base64::Engine;
use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};

pub use super::public_hostkeys::PublicHostKeys;

/// Why the host keys could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} the SSH host key {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot read the SSH host key {}; remove it, and a new one will be created", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: russh::keys::ssh_key::Error,
    },
    #[error("cannot generate an SSH host key: {0}")]
    Make(String),
}

/// An ed25519 and an RSA key (3072 bits).
#[derive(Debug, Clone)]
pub struct HostKeys {
    keys: Vec<PrivateKey>,
}

impl HostKeys {
    /// Reads the keys in `directory`, and makes those that are missing. Blocking; well under a second.
    pub fn load_or_make(directory: &Path) -> Result<Self, Error> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| file_error("create the directory of", directory, source))?;
        let ed25519 = load_or_make(&directory.join("ssh_host_ed25519_key"), make_ed25519)?;
        let rsa = load_or_make(&directory.join("ssh_host_rsa_key"), make_rsa)?;
        let keys = Self { keys: vec![ed25519, rsa] };
        keys.public().save(directory)?;
        Ok(keys)
    }

    pub(super) fn private(&self) -> Vec<PrivateKey> {
        self.keys.clone()
    }

    /// What clients are shown.
    pub fn public(&self) -> PublicHostKeys {
        PublicHostKeys::new(self.keys.iter().map(|key| key.public_key().clone()).collect())
    }
}

/// Creates a key pair for a client of ours: the private key is written to `path`, which must not exist
/// yet, the line for authorized_keys is returned.
pub fn make_client_key(path: &Path) -> Result<String, Error> {
    let key = make_ed25519()?;
    save(path, &key)?;
    key.public_key().to_openssh().map_err(|error| Error::Make(error.to_string()))
}

fn load_or_make(path: &Path, make: fn() -> Result<PrivateKey, Error>) -> Result<PrivateKey, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => PrivateKey::from_openssh(&text)
            .map_err(|source| Error::Parse { path: path.to_owned(), source }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = make()?;
            save(path, &key)?;
            Ok(key)
        }
        Err(source) => Err(file_error("read", path, source)),
    }
}

/// Written under another name and renamed, so that half a key is never found at a restart.
fn save(path: &Path, key: &PrivateKey) -> Result<(), Error> {
    let text = key.to_openssh(LineEnding::LF).map_err(|error| Error::Make(error.to_string()))?;
    let partial = path.with_extension("partial");
    let write = || {
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|source| file_error("write", path, source))
}

pub(super) fn file_error(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::File { action, path: path.to_owned(), source }
}

fn make_ed25519() -> Result<PrivateKey, Error> {
    let seed: [u8; 32] = rand::random();
    let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed));
    PrivateKey::new(pair, "ims-job").map_err(|error| Error::Make(error.to_string()))
}

/// By aws-lc: the pure Rust generator takes many seconds in a debug build.
fn make_rsa() -> Result<PrivateKey, Error> {
    let failed = |_| Error::Make("the RSA generator failed".into());
    let pair = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa3072).map_err(failed)?;
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
    let base64 = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n");
    russh::keys::decode_secret_key(&pem, None).map_err(|error| Error::Make(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_restart_finds_the_same_keys_and_only_root_can_read_them() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("keys");
        let first = HostKeys::load_or_make(&directory).unwrap();
        let again = HostKeys::load_or_make(&directory).unwrap();
        let fingerprints = first.public().fingerprints();
        assert_eq!(fingerprints, again.public().fingerprints());
        assert_eq!(fingerprints, PublicHostKeys::load(&directory).unwrap().fingerprints());
        assert_eq!(fingerprints[0].0, "ssh-ed25519");
        assert!(fingerprints[1].1.starts_with("SHA256:"));
        for entry in std::fs::read_dir(&directory).unwrap() {
            let entry = entry.unwrap();
            let public = entry.path().extension().is_some();
            let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, if public { 0o644 } else { 0o600 }, "{entry:?}");
        }
    }

    #[test]
    fn ssh_keygen_agrees_about_fingerprints_and_sshfp() {
        let dir = tempfile::tempdir().unwrap();
        let keys = HostKeys::load_or_make(dir.path()).unwrap().public();
        for ((_, fingerprint), name) in keys.fingerprints().iter().zip(["ed25519", "rsa"]) {
            let file = dir.path().join(format!("ssh_host_{name}_key"));
            let run = |arguments: &[&str]| {
                let output = std::process::Command::new("ssh-keygen")
                    .args(arguments)
                    .arg(&file)
                    .output()
                    .expect("ssh-keygen of openssh-client");
                String::from_utf8(output.stdout).unwrap()
            };
            assert!(run(&["-l", "-f"]).contains(fingerprint.as_str()));
            std::fs::write(file.with_extension("pub"), run(&["-y", "-f"])).unwrap();
            let theirs = run(&["-r", "host", "-f"]);
            assert!(keys.sshfp("host").iter().any(|line| theirs.contains(line)), "{theirs}");
        }
    }

    #[test]
    fn a_damaged_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ssh_host_rsa_key"), "garbage").unwrap();
        let error = HostKeys::load_or_make(dir.path()).unwrap_err();
        assert!(error.to_string().contains("ssh_host_rsa_key"), "{error}");
    }
}
