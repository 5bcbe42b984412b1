//! Decides who may log in: checks a user, a key or certificate, and an address against the
//! authorized keys.

use std::net::IpAddr;
use std::time::SystemTime;

use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey};

use super::algorithms;
use super::authorized_keys::{AuthorizedKeys, Entry, Options, PatternList, acceptable};

/// The only user of a job, regardless of the name of uid 0 in the image (contract section 1).
pub(super) const USER: &str = "root";

/// The permissions of a login, and its name in the log.
#[derive(Debug, Clone)]
pub struct Grant {
    pub options: Options,
    pub identity: String,
}

/// One attempt to log in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub user: &'a str,
    pub address: IpAddr,
    pub now: SystemTime,
}

impl Attempt<'_> {
    /// Checks that cost the same for every user, so that refusals reveal nothing.
    fn permitted(&self, account: &str, options: &Options) -> bool {
        let user = self.user == account;
        let from = options.from.as_ref().is_none_or(|list| list.allows(self.address));
        let fresh = options.expiry.is_none_or(|expiry| self.now < expiry);
        user & from & fresh
    }
}

/// Whether a signature by `key` is worth asking for. With certificates in play the key may be the one
/// inside a certificate, which the library does not show at this point.
pub(super) fn offered(
    keys: &AuthorizedKeys,
    account: &str,
    attempt: Attempt<'_>,
    key: &PublicKey,
    algorithm: &Algorithm,
) -> bool {
    let authority = keys.entries().iter().any(|entry| entry.options.cert_authority);
    plain(keys, account, attempt, key, algorithm).is_some()
        || (authority && attempt.user == account && algorithms::accepts(algorithm))
}

/// The grant for a key whose signature was checked.
pub(super) fn plain(
    keys: &AuthorizedKeys,
    account: &str,
    attempt: Attempt<'_>,
    key: &PublicKey,
    algorithm: &Algorithm,
) -> Option<Grant> {
    if !algorithms::accepts(algorithm) {
        return None;
    }
    let fits = |entry: &&Entry| {
        !entry.options.cert_authority
            && entry.key.key_data() == key.key_data()
            && attempt.permitted(account, &entry.options)
    };
    let entry = keys.entries().iter().find(fits)?;
    Some(Grant { options: entry.options.clone(), identity: identity(&entry.key) })
}

/// The grant for a certificate whose dates and signatures were checked (PROTOCOL.certkeys).
pub(super) fn certificate(
    keys: &AuthorizedKeys,
    account: &str,
    attempt: Attempt<'_>,
    cert: &Certificate,
) -> Option<Grant> {
    let weak = matches!(cert.signature().algorithm(), Algorithm::Rsa { hash: None })
        || acceptable(cert.public_key()).is_err()
        || acceptable(cert.signature_key()).is_err();
    if weak || cert.cert_type() != CertType::User {
        return None;
    }
    let fits = |entry: &&Entry| {
        entry.options.cert_authority
            && entry.key.key_data() == cert.signature_key()
            && principal(entry, attempt.user, cert)
            && attempt.permitted(account, &entry.options)
    };
    let entry = keys.entries().iter().find(fits)?;
    let options = restricted(entry.options.clone(), cert, attempt.address)?;
    let serial = cert.serial();
    let identity =
        format!("certificate {:?} serial {serial} of {}", cert.key_id(), identity(&entry.key));
    Some(Grant { options, identity })
}

/// A certificate without principals is refused, as in OpenSSH 10.
fn principal(entry: &Entry, user: &str, cert: &Certificate) -> bool {
    let names = cert.valid_principals();
    match &entry.options.principals {
        Some(allowed) => names.iter().any(|name| allowed.contains(name)),
        None => names.iter().any(|name| name == user),
    }
}

/// The options of the line, narrowed by the certificate's; `None` when the certificate forbids the
/// login or has a critical option that is not known.
fn restricted(mut options: Options, cert: &Certificate, address: IpAddr) -> Option<Options> {
    for (name, value) in cert.critical_options().iter() {
        match name.as_str() {
            "force-command" => match &options.command {
                // Two different commands are both meant, so neither can be chosen.
                Some(command) if command != value => return None,
                _ => options.command = Some(value.clone()),
            },
            "source-address" => {
                if !PatternList::parse(value).ok()?.allows(address) {
                    return None;
                }
            }
            _ => return None,
        }
    }
    let permits = |name: &str| cert.extensions().iter().any(|(extension, _)| extension == name);
    options.pty &= permits("permit-pty");
    options.port_forwarding &= permits("permit-port-forwarding");
    options.agent_forwarding &= permits("permit-agent-forwarding");
    Some(options)
}

fn identity(key: &PublicKey) -> String {
    let data: &KeyData = key.key_data();
    let fingerprint = data.fingerprint(HashAlg::Sha256);
    let comment = key.comment().as_str_lossy();
    match comment.is_empty() {
        true => fingerprint.to_string(),
        false => format!("{fingerprint} ({comment})"),
    }
}
