//! Adds the site's CA to the trust store of the container that builds: the package managers that
//! kiwi starts download from repositories with certificates of this CA.

use std::path::Path;
use std::process::Command;

use tokio_util::sync::CancellationToken;

use crate::telemetry::chain;
use linux::process;

/// Where distributions look for certificates of the site, and what then makes them trusted: SUSE,
/// Red Hat, Debian.
const STORES: [(&str, &str); 3] = [
    ("/usr/share/pki/trust/anchors", "update-ca-certificates"),
    ("/etc/pki/ca-trust/source/anchors", "update-ca-trust"),
    ("/usr/local/share/ca-certificates", "update-ca-certificates"),
];

/// Debian accepts only files with this extension.
const NAME: &str = "cray_certificate_authority.crt";

/// Adds the certificate to the store of the system, so call it in a container of the job's own. A
/// build from repositories that need no CA continues without it.
pub fn add(ca_cert: &Path, cancel: &CancellationToken) {
    let Some((anchors, update)) = STORES.iter().find(|(anchors, _)| Path::new(anchors).is_dir())
    else {
        tracing::warn!("this container has no known store of CA certificates");
        return;
    };
    let installed = Path::new(anchors).join(NAME);
    let updated = std::fs::copy(ca_cert, installed)
        .map_err(|error| error.to_string())
        .and_then(|_| run(update, cancel).map_err(|error| chain(&error)));
    match updated {
        Ok(()) => tracing::info!(anchors, "the container now trusts the site's CA"),
        Err(error) => tracing::warn!(
            anchors,
            error,
            "cannot add the site's CA to the container's trust store: repositories with \
             certificates of this CA will fail"
        ),
    }
}

fn run(update: &str, cancel: &CancellationToken) -> Result<(), process::Error> {
    process::run(&mut Command::new(update), cancel, |line| tracing::debug!("{update}: {line}"))
        .map(drop)
}
