//! Creates the clients of IMS and the object store from the contract.

use anyhow::Context;
use secrecy::SecretString;

use crate::contract::{ImsAccess, S3Access};
use ims_client::{self as ims, OAuthConfig, OAuthOverrides};
use net::{Policy, Trust};
use s3_client::{self as s3, Store};

/// A client of the IMS that `access` names. Reads the CA file and the OAuth files.
pub fn ims(access: &ImsAccess) -> anyhow::Result<ims::Client> {
    let overrides = OAuthOverrides {
        client_id: access.oauth_client_id.clone(),
        client_secret: access.oauth_client_secret.clone(),
        endpoint: access.oauth_endpoint.as_ref().map(|url| url.to_string()),
    };
    let oauth = match &access.token_file {
        Some(_) => None,
        None => OAuthConfig::load(&access.oauth_dir, overrides)
            .context("cannot read the OAuth credentials")?,
    };
    let trust = gateway_trust(access);
    ims::Client::new(ims::Config {
        base: access.url.clone(),
        trust,
        oauth,
        timeout: access.timeout,
        policy: Policy::within(access.timeout),
    })
    .map(|client| match &access.token_file {
        Some(path) => client.with_token_file(path.clone()),
        None => client,
    })
    .context("cannot set up the IMS client")
}

/// Whether this site has a CA: a machine without a gateway has no file at the default place; one
/// that was asked for by name must be there.
pub fn has_ca(access: &ImsAccess) -> bool {
    access.ca_cert_is_explicit || access.ca_cert.exists()
}

/// Whom to trust as the gateway, and as whatever else the site's CA has signed.
pub fn gateway_trust(access: &ImsAccess) -> Trust {
    if has_ca(access) { Trust::CaFile(access.ca_cert.clone()) } else { Trust::System }
}

/// A client of the store that `access` names. Reads the CA file and the directory of the credentials anew. `timeout` is that of IMS: so long is it waited for where a
/// user's work depends on it.
pub fn store(access: &S3Access, timeout: std::time::Duration) -> anyhow::Result<Store> {
    let access_key = credential(access, "access_key")?;
    let secret_key = credential(access, "secret_key")?;
    let endpoint = match credential(access, "s3_endpoint")? {
        Some(url) => url.parse().with_context(|| {
            format!(
                "{url:?} in the file s3_endpoint is not \
            a URL"
            )
        })?,
        None => access.endpoint.clone(),
    };
    Store::new(s3::Config {
        endpoint,
        access_key: access_key.unwrap_or_else(|| access.access_key.clone()),
        secret_key: secret_key.map_or_else(|| access.secret_key.clone(), SecretString::from),
        trust: access.trust.clone(),
        timeout,
    })
    .map(|store| store.with_policy(Policy::within(timeout)))
    .context("cannot set up the client of the object store")
}

/// What a file of `S3_CREDENTIALS_DIR` says, as a secret of Kubernetes is mounted; `None` without one.
fn credential(access: &S3Access, name: &str) -> anyhow::Result<Option<String>> {
    let path = access.credentials_dir.join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
