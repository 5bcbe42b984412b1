//! TLS before a service under test, with a certificate that can be replaced as a site does it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Takes TLS away and passes the bytes on; ends with its guard.
pub struct TlsFront {
    address: SocketAddr,
    directory: PathBuf,
    config: Arc<Mutex<Arc<ServerConfig>>>,
    serving: JoinHandle<()>,
}

impl TlsFront {
    /// `upstream` is the base URL of the service. The first certificate is `directory/first.pem`.
    pub async fn start(upstream: &str, directory: &Path) -> Self {
        let upstream = upstream.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = Arc::new(Mutex::new(make_certificate(directory, "first")));
        let serving = tokio::spawn(serve(listener, upstream, config.clone()));
        Self { address, directory: directory.into(), config, serving }
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// From now on another certificate is shown; returns its PEM text.
    pub fn replace_certificate(&self) -> String {
        *self.config.lock().unwrap() = make_certificate(&self.directory, "second");
        fs::read_to_string(self.directory.join("second.pem")).unwrap()
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, upstream: String, config: Arc<Mutex<Arc<ServerConfig>>>) {
    while let Ok((client, _)) = listener.accept().await {
        let acceptor = TlsAcceptor::from(config.lock().unwrap().clone());
        let upstream = upstream.clone();
        tokio::spawn(async move {
            // A client that does not believe the certificate ends its connection here.
            let Ok(mut client) = acceptor.accept(client).await else { return };
            let Ok(mut service) = TcpStream::connect(upstream).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut client, &mut service).await;
        });
    }
}

/// A certificate for `localhost` that signs itself: `NAME.pem` and `NAME.key` in `directory`.
fn make_certificate(directory: &Path, name: &str) -> Arc<ServerConfig> {
    let (certificate, key) = (format!("{name}.pem"), format!("{name}.key"));
    let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"];
    let names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
    let mut openssl = Command::new("openssl");
    openssl.args(request).args(names).args(["-out", &certificate, "-keyout", &key]);
    openssl.current_dir(directory).stdin(Stdio::null()).stderr(Stdio::null());
    assert!(openssl.status().unwrap().success());
    let certificate = CertificateDer::from_pem_file(directory.join(certificate)).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join(key)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key);
    Arc::new(config.unwrap())
}
