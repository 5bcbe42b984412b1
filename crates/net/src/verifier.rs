//! A TLS verifier that trusts the system's CAs and a file of certificates, of CAs or of servers.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};

use super::trust::Error;

/// TLS with the settings of the HTTP client, except for the verifier.
pub(super) fn tls(path: &Path, named: Vec<CertificateDer<'static>>) -> Result<ClientConfig, Error> {
    // Missing or unusable CAs of the system are ignored: the file is enough.
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Named::new(path, roots, named, provider.clone())?;
    let config = ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().map_err(Error::Tls)?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".into(), b"http/1.1".into()];
    Ok(config)
}

/// Trusts certificates that a known CA has signed, and servers whose exact certificate is in the file.
///
/// By default, openssl marks a self-signed certificate as that of a CA. The library refuses such a
/// certificate for a server; curl and Python accept it. If the file contains it byte for byte, it
/// needs no issuer; its dates, the server's name and the possession of the key are still checked.
#[derive(Debug)]
struct Named {
    known: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl Named {
    /// `roots` are the CAs that are trusted besides.
    fn new(
        path: &Path,
        mut roots: RootCertStore,
        named: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        for certificate in &named {
            let added = roots.add(certificate.clone());
            added.map_err(|error| Error::Parse { path: path.into(), source: error.into() })?;
        }
        let known = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build();
        let failed = |error| Error::Tls(rustls::Error::Other(OtherError(Arc::new(error))));
        Ok(Self { known: known.map_err(failed)?, named })
    }
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let known = &self.known;
        let verified =
            known.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            Err(error) if is_about_issuer(&error) => {
                if !self.named.iter().any(|named| named == end_entity) {
                    return Err(in_words(error));
                }
                let certificate = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&certificate, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.known.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.known.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.known.supported_verify_schemes()
    }
}

/// Whether a certificate was refused because of its issuer, or because it is that of a CA. Its
/// dates are valid then: the library checks them first, and a test verifies this.
fn is_about_issuer(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(why) = error else { return false };
    matches!(why, CertificateError::UnknownIssuer | CertificateError::BadSignature) || is_ca(why)
}

fn is_ca(why: &CertificateError) -> bool {
    let CertificateError::Other(OtherError(why)) = why else { return false };
    matches!(why.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// Replaces the library's error by a readable text.
fn in_words(error: rustls::Error) -> rustls::Error {
    match error {
        rustls::Error::InvalidCertificate(why) if is_ca(&why) => {
            CertificateError::Other(OtherError(Arc::new(NotNamed))).into()
        }
        error => error,
    }
}

#[derive(thiserror::Error)]
#[error("the server uses a CA certificate that is not in the CA file")]
struct NotNamed;

/// The library shows errors that are not its own in this form.
impl std::fmt::Debug for NotNamed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Trust;
    use crate::testing::{TlsServer, openssl};
    use rustls::pki_types::pem::PemObject;
    use std::time::Duration;

    const DAY: u64 = 24 * 3600;

    /// What openssl creates from names and nothing else.
    const NAMES: [&str; 2] = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];

    /// Creates `NAME.crt` and `NAME.key`, good for two days.
    fn make(directory: &Path, name: &str, more: &[&str]) -> CertificateDer<'static> {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        let mut command = openssl(directory, &["req", "-x509", "-nodes", "-days", "2"]);
        command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        command.args(["-subj", "/CN=localhost", "-keyout", &key, "-out", &certificate]).args(more);
        assert!(command.status().unwrap().success(), "{command:?}");
        CertificateDer::from_pem_file(directory.join(certificate)).unwrap()
    }

    /// A configuration that adds nothing of its own.
    fn plain(directory: &Path) -> String {
        let path = directory.join("plain.cnf");
        std::fs::write(&path, "[req]\ndistinguished_name=names\n[names]\n").unwrap();
        path.display().to_string()
    }

    /// Judges `presented` as a server of this name does, so many days from now.
    fn judge(
        named: &[&CertificateDer<'static>],
        presented: &CertificateDer<'static>,
        name: &'static str,
        days: i64,
    ) -> Result<(), String> {
        let named = named.iter().map(|it| (*it).clone()).collect();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = RootCertStore::empty();
        let verifier = Named::new(Path::new("ca.crt"), roots, named, provider).unwrap();
        let seconds = UnixTime::now().as_secs().saturating_add_signed(days * DAY as i64);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = ServerName::try_from(name).unwrap();
        let verified = verifier.verify_server_cert(presented, &[], &name, &[], now);
        verified.map(|_| ()).map_err(|error| error.to_string())
    }

    fn refuses(judged: Result<(), String>, why: &str) {
        let text = judged.unwrap_err();
        assert!(text.contains("invalid peer certificate") && text.contains(why), "{text}");
    }

    #[test]
    fn a_server_that_is_named_is_believed_within_its_dates_and_names() {
        let directory = tempfile::tempdir().unwrap();
        let server = make(directory.path(), "server", &NAMES);
        let other = make(directory.path(), "other", &NAMES);
        for name in ["localhost", "127.0.0.1"] {
            assert_eq!(judge(&[&server], &server, name, 0), Ok(()));
            assert_eq!(judge(&[&other, &server], &server, name, 0), Ok(()));
        }
        refuses(judge(&[&server], &other, "localhost", 0), "that is not in the CA file");
        refuses(judge(&[&server], &server, "example.org", 0), "not valid for name");
        refuses(judge(&[&server], &server, "localhost", 3), "expired");
        refuses(judge(&[&server], &server, "localhost", -1), "not valid yet");
    }

    #[test]
    fn a_name_that_stands_in_the_subject_alone_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let server = make(directory.path(), "server", &[]);
        refuses(judge(&[&server], &server, "localhost", 0), "not valid for");
    }

    #[test]
    fn a_certificate_of_a_ca_is_believed_with_the_ca_and_without() {
        let directory = tempfile::tempdir().unwrap();
        let config = plain(directory.path());
        let ca = make(directory.path(), "ca", &[]);
        let signed = ["-config", &config, "-CA", "ca.crt", "-CAkey", "ca.key"];
        let server = make(directory.path(), "server", &[&signed[..], &NAMES].concat());
        let another = make(directory.path(), "another", &[]);
        for named in [&[&ca][..], &[&server], &[&server, &ca]] {
            assert_eq!(judge(named, &server, "localhost", 0), Ok(()));
            refuses(judge(named, &server, "example.org", 0), "not valid for name");
            refuses(judge(named, &server, "localhost", 3), "expired");
            refuses(judge(named, &server, "localhost", -1), "not valid yet");
        }
        // Of the same name as the one that has signed, which is all that is known of it at first.
        refuses(judge(&[&another], &server, "localhost", 0), "");
        // A self-signed one that is not a CA's was never refused.
        let lone = make(directory.path(), "lone", &[&["-config", &config][..], &NAMES].concat());
        assert_eq!(judge(&[&lone], &lone, "localhost", 0), Ok(()));
    }

    #[tokio::test]
    async fn a_client_talks_to_the_server_that_its_ca_file_names() {
        let directory = tempfile::tempdir().unwrap();
        make(directory.path(), "server", &NAMES);
        make(directory.path(), "other", &NAMES);
        let server = TlsServer::start(directory.path(), "server.crt", "server.key");
        let get = async |ca: &str, host: &str| {
            let trust = Trust::CaFile(directory.path().join(ca));
            let client = crate::client(&trust, Duration::from_secs(20)).unwrap();
            client.get(format!("https://{host}:{}/", server.port)).send().await
        };
        assert!(get("server.crt", "localhost").await.unwrap().status().is_success());
        assert!(get("server.crt", "127.0.0.1").await.unwrap().status().is_success());
        let error = get("other.crt", "localhost").await.unwrap_err();
        let text = linux::error::chain(&error);
        assert!(crate::trust::is_untrusted(&error), "{text}");
        assert!(text.contains("that is not in the CA file"), "{text}");
    }
}
