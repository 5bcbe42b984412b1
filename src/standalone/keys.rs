//! S3 credentials of the embedded store: given, or made at the first start and kept.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::config::Keys;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot write the S3 keys to {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read the S3 keys from {path}; remove it to have new ones made")]
    Read { path: PathBuf, source: io::Error },
}

/// The file, named as S3 tools name these.
#[derive(Serialize, Deserialize)]
struct Kept {
    access_key: String,
    secret_key: String,
}

/// The keys kept in `path`, made if there are none. The secret itself stays out of the log, which
/// others may collect; the log says where it is.
pub fn kept(path: &Path) -> Result<Keys, Error> {
    let read = |source| Error::Read { path: path.into(), source };
    let (keys, made) = match std::fs::read(path) {
        Ok(bytes) => {
            let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| read(error.into()))?;
            (Keys { access: kept.access_key, secret: kept.secret_key.into() }, false)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (make(path)?, true),
        Err(error) => return Err(read(error)),
    };
    tracing::info!(access_key = keys.access, file = %path.display(), made, "S3 keys");
    Ok(keys)
}

fn make(path: &Path) -> Result<Keys, Error> {
    let keys = Keys {
        access: URL_SAFE_NO_PAD.encode(rand::random::<[u8; 15]>()),
        secret: SecretString::from(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 30]>())),
    };
    let kept = Kept {
        access_key: keys.access.clone(),
        secret_key: keys.secret.expose_secret().to_owned(),
    };
    write(path, &kept).map_err(|source| Error::Write { path: path.into(), source })?;
    Ok(keys)
}

/// Whole or not at all, and for the owner alone.
fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&serde_json::to_vec_pretty(kept)?)?;
    file.sync_all()?;
    std::fs::rename(draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_made_once_and_only_for_the_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s3-keys.json");
        let first = kept(&path).unwrap();
        let second = kept(&path).unwrap();
        assert_eq!(first.access, second.access);
        assert_eq!(first.secret.expose_secret(), second.secret.expose_secret());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(first.secret.expose_secret().len() >= 40);
    }
}
