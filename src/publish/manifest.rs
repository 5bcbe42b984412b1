//! The manifest of an image, version 1.0 (contract section 5).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use ims_client::Link;

/// Version of the manifests that IMS accepts.
pub const VERSION: &str = "1.0";

/// Most bytes of a manifest that is read.
pub const SIZE_LIMIT: usize = 1 << 20;

/// What an artifact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Rootfs,
    Kernel,
    Initrd,
    DebugKernel,
    BootParameters,
    Manifest,
    /// What differs from the base image.
    Changes,
    /// What the image was made of.
    Provenance,
}

impl Kind {
    /// What is beside a manifest that does not list it.
    pub const HISTORY: [Self; 2] = [Self::Changes, Self::Provenance];

    /// The media type in manifest and result.
    pub fn media_type(self) -> &'static str {
        match self {
            Kind::Rootfs => "application/vnd.cray.image.rootfs.squashfs",
            Kind::Kernel => "application/vnd.cray.image.kernel",
            Kind::Initrd => "application/vnd.cray.image.initrd",
            Kind::DebugKernel => "application/vnd.cray.image.debug.kernel",
            Kind::BootParameters => "application/vnd.cray.image.parameters.boot",
            Kind::Manifest | Kind::Changes | Kind::Provenance => "application/json",
        }
    }

    /// The last part of the object's key.
    pub fn key_name(self) -> &'static str {
        match self {
            Kind::Rootfs => "rootfs",
            Kind::Kernel => "kernel",
            Kind::Initrd => "initrd",
            Kind::DebugKernel => "debug_kernel",
            Kind::BootParameters => "boot_parameters",
            Kind::Manifest => "manifest.json",
            Kind::Changes => "changes.json",
            Kind::Provenance => "provenance.json",
        }
    }
}

/// One artifact of an image. The order of the fields is that of the contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    pub link: Link,
    #[serde(rename = "type")]
    pub media_type: String,
    /// Hex.
    #[serde(default)]
    pub md5: String,
}

/// A manifest. Fields beyond these are not kept: it is read to find artifacts, and written again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: String,
    /// UTC, `YYYY-MM-DD HH:MM:SS.ffffff`.
    #[serde(default)]
    pub created: String,
    pub artifacts: Vec<Artifact>,
}

/// Why a manifest names no root file system.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it is not a manifest")]
    Json(#[from] serde_json::Error),
    #[error("it has version {0:?}, only {VERSION:?} is supported")]
    Version(String),
    #[error("it lists {0} root file systems, expected one")]
    Rootfs(usize),
}

impl Manifest {
    pub fn new(created: Timestamp, artifacts: Vec<Artifact>) -> Self {
        let created = created.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string();
        Self { version: VERSION.to_owned(), created, artifacts }
    }

    /// Reads a manifest and checks what IMS would.
    pub fn parse(json: &[u8]) -> Result<Self, Error> {
        let manifest = Self::read(json)?;
        manifest.rootfs()?;
        Ok(manifest)
    }

    /// Reads a manifest, whatever it lists.
    pub fn read(json: &[u8]) -> Result<Self, Error> {
        let manifest: Self = serde_json::from_slice(json)?;
        if manifest.version != VERSION {
            return Err(Error::Version(manifest.version));
        }
        Ok(manifest)
    }

    /// The one root file system.
    pub fn rootfs(&self) -> Result<&Artifact, Error> {
        let is_rootfs = |artifact: &&Artifact| artifact.media_type == Kind::Rootfs.media_type();
        let mut found = self.artifacts.iter().filter(is_rootfs);
        match (found.next(), found.count()) {
            (Some(rootfs), 0) => Ok(rootfs),
            (None, _) => Err(Error::Rootfs(0)),
            (Some(_), more) => Err(Error::Rootfs(1 + more)),
        }
    }

    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and lists of them can be written as JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(kind: Kind) -> Artifact {
        Artifact {
            link: Link::s3(format!("s3://boot-images/1/{}", kind.key_name()), "e-2"),
            media_type: kind.media_type().to_owned(),
            md5: "m".to_owned(),
        }
    }

    #[test]
    fn a_manifest_is_written_to_the_letter_of_the_contract() {
        let created = "2021-04-01T21:24:23.00042Z".parse().unwrap();
        let manifest = Manifest::new(created, vec![artifact(Kind::Rootfs)]);
        assert_eq!(
            String::from_utf8(manifest.to_json()).unwrap(),
            r#"{"version":"1.0","created":"2021-04-01 21:24:23.000420","artifacts":[{"link":{"path":"s3://boot-images/1/rootfs","etag":"e-2","type":"s3"},"type":"application/vnd.cray.image.rootfs.squashfs","md5":"m"}]}"#
        );
        assert_eq!(Manifest::parse(&manifest.to_json()).unwrap(), manifest);
    }

    #[test]
    fn exactly_one_rootfs_and_the_known_version_are_asked_for() {
        let now = Timestamp::now();
        let none = Manifest::new(now, vec![artifact(Kind::Kernel)]).to_json();
        let two =
            Manifest::new(now, vec![artifact(Kind::Rootfs), artifact(Kind::Rootfs)]).to_json();
        assert!(matches!(Manifest::parse(&none), Err(Error::Rootfs(0))));
        assert!(matches!(Manifest::parse(&two), Err(Error::Rootfs(2))));
        assert!(matches!(
            Manifest::parse(br#"{"version":"2","artifacts":[]}"#),
            Err(Error::Version(_))
        ));
        assert!(matches!(Manifest::parse(b"no"), Err(Error::Json(_))));
    }
}
