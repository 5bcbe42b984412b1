//! Which certificates a client trusts: the system's CAs, also a CA file, or any certificate.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::verifier;

/// How the certificate of a server is verified.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Trust {
    /// The CA certificates of the operating system.
    #[default]
    System,
    /// Those, and the certificates of a PEM file: of CAs, or of the servers themselves.
    CaFile(PathBuf),
    /// Any certificate: `S3_SSL_VALIDATE=False`, curl's `--insecure`.
    Insecure,
}

/// Why there is no client that trusts as it should.
#[allow(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the CA file {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the CA file {path} contains no usable PEM certificate")]
    Parse { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the CA file {path} contains no PEM certificate")]
    Empty { path: PathBuf },
    #[error("cannot set up the HTTP client")]
    Client(#[source] reqwest::Error),
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
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
                Ok(builder
                    .tls_backend_preconfigured(verifier::tls(path, read_certificates(path)?)?))
            }
        }
    }
}

/// Whether a request failed because the server's certificate is not trusted, which is not
/// transient.
pub fn is_untrusted(error: &(dyn std::error::Error + 'static)) -> bool {
    // By what rustls says: its error lies within others that hide it from `source`.
    linux::error::chain(error).contains("invalid peer certificate")
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = std::fs::read(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates =
        certificates.map_err(|error| Error::Parse { path: path.into(), source: error.into() })?;
    if certificates.is_empty() {
        return Err(Error::Empty { path: path.into() });
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TlsServer, openssl};

    /// An HTTPS server with an unknown certificate.
    fn stranger(directory: &Path) -> TlsServer {
        let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"];
        let names = ["-keyout", "key", "-out", "certificate", "-subj", "/CN=localhost"];
        assert!(openssl(directory, &request).args(names).status().unwrap().success());
        TlsServer::start(directory, "certificate", "key")
    }

    #[tokio::test]
    async fn a_stranger_is_told_from_a_server_that_is_away() {
        let directory = tempfile::tempdir().unwrap();
        let mut server = stranger(directory.path());
        let address = format!("127.0.0.1:{}", server.port);
        let client =
            super::super::client(&Trust::System, std::time::Duration::from_secs(60)).unwrap();
        let error = client.get(format!("https://{address}/")).send().await.unwrap_err();
        assert!(is_untrusted(&error), "{}", linux::error::chain(&error));
        server.stop();
        let error = client.get(format!("https://{address}/")).send().await.unwrap_err();
        assert!(!is_untrusted(&error), "{}", linux::error::chain(&error));
    }

    #[test]
    fn a_ca_file_without_certificates_is_an_error_that_names_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Trust::CaFile(file.path().into())
            .apply(super::super::builder(std::time::Duration::ZERO))
            .unwrap_err();
        assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
    }
}
