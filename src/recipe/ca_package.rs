//! The site's CA certificate as an RPM, so that the package manager in the new root installs it like
//! everything else (contract section 8.4).

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rpm::{BuildConfig, CompressionType, Dependency, FileOptions, PackageBuilder, Scriptlet};

use linux::dir::Dir;

const NAME: &str = "cray_ca_cert";
const VERSION: &str = "1.0.1";
const RELEASE: &str = "1";

/// Where the package puts the certificate.
const INSTALLED: &str = "/usr/share/pki/trust/anchors/cray_certificate_authority.crt";

/// What makes the certificates of that directory trusted, on SUSE's distributions.
const AFTER_INSTALL: &str = "update-ca-certificates";

/// Certificates are small.
const LARGEST: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the CA certificate {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a PEM certificate, so it cannot be added to the image as the site's CA")]
    NoCertificate { path: PathBuf },
    #[error(
        "{path} contains a private key, which must not get into an image: use a file with the \
         certificate only"
    )]
    PrivateKey { path: PathBuf },
    #[error("cannot build the package with the CA certificate")]
    Build(#[source] rpm::Error),
    #[error("cannot write the package with the CA certificate to {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "there is no package with the CA certificate at {path}: run the step that builds it \
         (build_ca_rpm.py) before the build"
    )]
    NotMade { path: PathBuf, source: io::Error },
    #[error(
        "the image root lacks the CA certificate {INSTALLED}: the package manager did not install \
         {package}; search the build log for its name"
    )]
    NotInstalled { package: PathBuf, source: io::Error },
    #[error("{INSTALLED} in the image root is not the CA certificate from {package}")]
    Another { package: PathBuf },
}

/// A package that was written.
#[derive(Debug, Clone)]
pub struct CaPackage {
    /// The RPM.
    pub path: PathBuf,
    certificate: Vec<u8>,
}

impl CaPackage {
    /// Creates the package of the certificate `ca_cert` in `directory`, which is created if missing.
    pub fn write(ca_cert: &Path, directory: &Path) -> Result<Self, Error> {
        let certificate = read(ca_cert)?;
        let package = build(&certificate).map_err(Error::Build)?;
        let path = directory.join(file_name());
        let mut bytes = Vec::new();
        package.write(&mut bytes).map_err(Error::Build)?;
        std::fs::create_dir_all(directory)
            .and_then(|()| File::create(&path)?.write_all(&bytes))
            .map_err(|source| Error::Write { path: path.clone(), source })?;
        tracing::info!(path = %path.display(), "built the package with the CA certificate");
        Ok(Self { path, certificate })
    }

    /// The package of `ca_cert` that another container has made in `directory`.
    pub fn find(ca_cert: &Path, directory: &Path) -> Result<Self, Error> {
        let path = directory.join(file_name());
        path.metadata().map_err(|source| Error::NotMade { path: path.clone(), source })?;
        Ok(Self { path, certificate: read(ca_cert)? })
    }

    /// Checks that the certificate is in `root`: kiwi silently skips a package that cannot be
    /// installed.
    pub fn check_installed(&self, root: &Path) -> Result<(), Error> {
        let package = || self.path.clone();
        let found = Dir::open(root)
            .and_then(|root| root.read_inside(Path::new(INSTALLED), LARGEST))
            .map_err(|source| Error::NotInstalled { package: package(), source })?;
        if found == self.certificate { Ok(()) } else { Err(Error::Another { package: package() }) }
    }
}

fn file_name() -> String {
    format!("{NAME}-{VERSION}-{RELEASE}.noarch.rpm")
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut content = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST).read_to_end(&mut content))
        .map_err(|source| Error::Read { path: path.into(), source })?;
    let holds = |text: &[u8]| content.windows(text.len()).any(|window| window == text);
    if holds(b"PRIVATE KEY-----") {
        return Err(Error::PrivateKey { path: path.into() });
    }
    if !holds(b"-----BEGIN CERTIFICATE-----") {
        return Err(Error::NoCertificate { path: path.into() });
    }
    Ok(content)
}

fn build(certificate: &[u8]) -> Result<rpm::Package, rpm::Error> {
    let config = BuildConfig::v4().compression(CompressionType::Gzip);
    let post = Scriptlet::new(AFTER_INSTALL).prog(vec!["/bin/sh"]);
    PackageBuilder::new(NAME, VERSION, "MIT", "noarch", "CA certificate of this site")
        .using_config(config)
        .release(RELEASE)
        .description("The certificate authority that signs the API gateway of this site.")
        .with_file_contents(certificate, FileOptions::new(INSTALLED).permissions(0o644))?
        // Not required, since not every distribution has a package of that name.
        .order_with_requires(Dependency::any("ca-certificates"))
        .post_install_script(post)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const PEM: &str = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";

    fn package(dir: &Path) -> CaPackage {
        std::fs::write(dir.join("ca.crt"), PEM).unwrap();
        CaPackage::write(&dir.join("ca.crt"), &dir.join("made/here")).unwrap()
    }

    fn rpm(arguments: &[&str], package: &CaPackage) -> String {
        let output = Command::new("rpm").args(arguments).arg(&package.path).output();
        let output = output.expect("rpm is installed by scripts/install test");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn rpm_reads_name_file_and_script() {
        let dir = tempfile::tempdir().unwrap();
        let package = package(dir.path());
        assert!(package.path.ends_with("made/here/cray_ca_cert-1.0.1-1.noarch.rpm"));
        let ca_cert = dir.path().join("ca.crt");
        let found = CaPackage::find(&ca_cert, &dir.path().join("made/here")).unwrap();
        assert_eq!(found.path, package.path);
        let error = CaPackage::find(&ca_cert, dir.path()).unwrap_err();
        assert!(error.to_string().contains("build_ca_rpm.py"), "{error}");
        let query = "%{NAME} %{VERSION} %{RELEASE} %{ARCH}\n";
        let named = rpm(&["-qp", "--nosignature", "--qf", query], &package);
        assert_eq!(named, "cray_ca_cert 1.0.1 1 noarch\n");
        assert_eq!(rpm(&["-qpl", "--nosignature"], &package), format!("{INSTALLED}\n"));
        let scripts = rpm(&["-qp", "--nosignature", "--scripts"], &package);
        assert!(scripts.contains("postinstall") && scripts.contains(AFTER_INSTALL), "{scripts}");
        let modes = "[%{FILEMODES:perms} %{FILEUSERNAME} %{FILEGROUPNAME}\n]";
        let modes = rpm(&["-qp", "--nosignature", "--qf", modes], &package);
        assert_eq!(modes, "-rw-r--r-- root root\n");
        rpm(&["-K", "--nosignature"], &package);
    }

    #[test]
    fn the_root_is_looked_through_after_the_build() {
        let dir = tempfile::tempdir().unwrap();
        let package = package(dir.path());
        let root = dir.path().join("root");
        let installed = root.join(INSTALLED.trim_start_matches('/'));
        std::fs::create_dir_all(installed.parent().unwrap()).unwrap();
        let error = package.check_installed(&root).unwrap_err().to_string();
        assert!(error.contains("lacks the CA certificate"), "{error}");
        std::fs::write(&installed, "another").unwrap();
        assert!(matches!(package.check_installed(&root), Err(Error::Another { .. })));
        std::fs::write(&installed, PEM).unwrap();
        package.check_installed(&root).unwrap();
    }

    #[test]
    fn a_private_key_and_a_text_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.crt");
        let key = "-----BEGIN RSA PRIVATE KEY-----\n";
        for text in ["hello", &format!("{PEM}{key}")] {
            std::fs::write(&path, text).unwrap();
            assert!(CaPackage::write(&path, dir.path()).is_err(), "{text}");
        }
        assert!(CaPackage::write(&dir.path().join("missing"), dir.path()).is_err());
    }
}
