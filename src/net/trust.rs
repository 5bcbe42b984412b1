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

/// Whether a request failed because the server's certificate is not believed, which does not pass.
pub fn is_untrusted(error: &(dyn std::error::Error + 'static)) -> bool {
    // By what rustls says: its error lies within others that hide it from `source`.
    crate::telemetry::chain(error).contains("invalid peer certificate")
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

    /// An HTTPS server whose certificate nobody knows.
    fn stranger(directory: &Path) -> (std::process::Child, String) {
        use std::io::{BufRead, BufReader};
        let openssl = |arguments: &[&str]| {
            let mut command = std::process::Command::new("openssl");
            command.args(arguments).current_dir(directory).stderr(std::process::Stdio::null());
            command.stdin(std::process::Stdio::null());
            command
        };
        let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"];
        let names = ["-keyout", "key", "-out", "certificate", "-subj", "/CN=localhost"];
        assert!(openssl(&request).args(names).status().unwrap().success());
        let serve = ["s_server", "-www", "-naccept", "3", "-key", "key", "-cert", "certificate"];
        let mut serve = openssl(&serve);
        serve.args(["-accept", "127.0.0.1:0"]).stdout(std::process::Stdio::piped());
        let mut server = serve.spawn().unwrap();
        let lines = BufReader::new(server.stdout.take().unwrap()).lines();
        let address = lines
            .map_while(Result::ok)
            .find_map(|line| Some(line.strip_prefix("ACCEPT ")?.to_owned()));
        (server, address.expect("openssl says where it listens"))
    }

    #[tokio::test]
    async fn a_stranger_is_told_from_a_server_that_is_away() {
        let directory = tempfile::tempdir().unwrap();
        let (mut server, address) = stranger(directory.path());
        let client =
            super::super::client(&Trust::System, std::time::Duration::from_secs(60)).unwrap();
        let error = client.get(format!("https://{address}/")).send().await.unwrap_err();
        assert!(is_untrusted(&error), "{}", crate::telemetry::chain(&error));
        server.kill().unwrap();
        server.wait().unwrap();
        let error = client.get(format!("https://{address}/")).send().await.unwrap_err();
        assert!(!is_untrusted(&error), "{}", crate::telemetry::chain(&error));
    }

    #[test]
    fn a_ca_file_without_certificates_is_an_error_that_names_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error =
            Trust::CaFile(file.path().into()).apply(reqwest::Client::builder()).unwrap_err();
        assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
    }
}
