//! Whom a client believes: the system's CAs, a CA file as well, or anyone.

use std::path::{Path, PathBuf};

/// How the certificate of a server is judged.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Trust {
    /// The CA certificates of the operating system.
    #[default]
    System,
    /// Those, and the certificates of a PEM file.
    CaFile(PathBuf),
    /// Any certificate: `S3_SSL_VALIDATE=False`, curl's `--insecure`.
    Insecure,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the CA file {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the CA file {path} holds no usable PEM certificate")]
    Parse { path: PathBuf, source: reqwest::Error },
    #[error("the CA file {path} holds no PEM certificate")]
    Empty { path: PathBuf },
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
}

impl Trust {
    pub(super) fn apply(
        &self,
        builder: reqwest::ClientBuilder,
    ) -> Result<reqwest::ClientBuilder, Error> {
        match self {
            Trust::System => Ok(builder),
            Trust::Insecure => Ok(builder.tls_danger_accept_invalid_certs(true)),
            Trust::CaFile(path) => {
                let certificates = read_certificates(path)?;
                Ok(certificates.into_iter().fold(builder, |builder, certificate| {
                    builder.add_root_certificate(certificate)
                }))
            }
        }
    }
}

fn read_certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, Error> {
    let pem = std::fs::read(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem)
        .map_err(|source| Error::Parse { path: path.into(), source })?;
    if certificates.is_empty() {
        return Err(Error::Empty { path: path.into() });
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_without_certificates_is_an_error_that_names_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error =
            Trust::CaFile(file.path().into()).apply(reqwest::Client::builder()).unwrap_err();
        assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
    }
}
