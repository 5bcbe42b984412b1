//! Secrets: the token of the API and the S3 credentials. Given by the operator, or generated at the
//! first start and stored.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::config::Keys;

/// Longest token, in characters: more is another file.
const LONGEST_TOKEN: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot write the S3 keys to {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read the S3 keys from {path}; remove it, and new keys will be created")]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write the token to {path}")]
    WriteToken { path: PathBuf, source: io::Error },
    #[error(
        "cannot read the token from {path}; if standalone created this file, remove it, and a new \
         token will be created"
    )]
    ReadToken { path: PathBuf, source: io::Error },
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
    let (keys, made) = match std::fs::read(path) {
        Ok(_) => (read(path)?, false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let keys = make();
            keep(path, &keys).map_err(|source| Error::Write { path: path.into(), source })?;
            (keys, true)
        }
        Err(source) => return Err(Error::Read { path: path.into(), source }),
    };
    tracing::info!(access_key = keys.access, file = %path.display(), made, "S3 keys");
    Ok(keys)
}

/// The keys in `path`.
pub fn read(path: &Path) -> Result<Keys, Error> {
    let failed = |source| Error::Read { path: path.into(), source };
    let bytes = std::fs::read(path).map_err(failed)?;
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?;
    Ok(Keys { access: kept.access_key, secret: kept.secret_key.into() })
}

/// A new pair of keys.
pub fn make() -> Keys {
    Keys {
        access: URL_SAFE_NO_PAD.encode(rand::random::<[u8; 15]>()),
        secret: SecretString::from(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 30]>())),
    }
}

fn keep(path: &Path, keys: &Keys) -> io::Result<()> {
    let kept = Kept {
        access_key: keys.access.clone(),
        secret_key: keys.secret.expose_secret().to_owned(),
    };
    write_private(path, &serde_json::to_vec_pretty(&kept)?)
}

/// The token kept in `path`, made if there is none. It stays out of the log, too.
pub fn kept_token(path: &Path) -> Result<SecretString, Error> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let token = make_token();
            let line = format!("{}\n", token.expose_secret());
            write_private(path, line.as_bytes())
                .map_err(|source| Error::WriteToken { path: path.into(), source })?;
            tracing::info!(file = %path.display(), "created the token that clients must send");
            Ok(token)
        }
        _ => read_token(path),
    }
}

/// The token in `path`: its text without white space around it.
pub fn read_token(path: &Path) -> Result<SecretString, Error> {
    let failed = |source| Error::ReadToken { path: path.into(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let token = text.trim();
    // RFC 6750 section 2.1; what else is no header value, and a space or a line feed in it is a file
    // of something else.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if token.is_empty() || token.len() > LONGEST_TOKEN || !token.bytes().all(fits) {
        let why = "it does not contain a token: letters, digits and - . _ ~ + / = on one line";
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, why)));
    }
    Ok(SecretString::from(token))
}

/// A new token.
pub fn make_token() -> SecretString {
    SecretString::from(hex::encode(rand::random::<[u8; 32]>()))
}

/// Completely or not at all, and only for the owner.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_are_made_once_and_only_for_the_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s3-keys.json");
        let first = kept(&path).unwrap();
        let second = kept(&path).unwrap();
        assert_eq!(first.access, second.access);
        assert_eq!(first.secret.expose_secret(), second.secret.expose_secret());
        assert_eq!(mode(&path), 0o600);
        assert!(first.secret.expose_secret().len() >= 40);
    }

    #[test]
    fn a_token_is_made_once_and_what_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let first = kept_token(&path).unwrap();
        assert_eq!(first.expose_secret().len(), 64);
        assert_eq!(kept_token(&path).unwrap().expose_secret(), first.expose_secret());
        assert_eq!(mode(&path), 0o600);
        for bad in ["", " \n", "two words", "a\nb", "gr\u{fc}n"] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(kept_token(&path), Err(Error::ReadToken { .. })), "{bad:?}");
        }
    }
}
