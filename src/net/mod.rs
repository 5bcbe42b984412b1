//! What every client of this program shares: whom to trust over TLS, and when to try again.
//!
//! Called by `ims`, `s3` and `recipe`, so that a site's CA and retry rules are said once.

pub mod body;
pub mod pace;
pub mod retry;
#[cfg(test)]
pub mod testing;
pub mod trust;
mod verifier;

pub use retry::{CLEAN_UP_LIMIT, Failure, Policy};
pub use trust::Trust;

use std::time::Duration;

/// Time to open a TCP connection and finish the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// An HTTP client that trusts what `trust` says.
///
/// `read_timeout` bounds the silence between two reads, not the whole transfer: an image of many
/// GiB takes as long as it takes, a dead peer does not.
pub fn client(trust: &Trust, read_timeout: Duration) -> Result<reqwest::Client, trust::Error> {
    trust.apply(builder(read_timeout))?.build().map_err(trust::Error::Client)
}

/// Like [`client`]; a redirect is an answer and is not followed.
pub fn client_without_redirects(
    trust: &Trust,
    read_timeout: Duration,
) -> Result<reqwest::Client, trust::Error> {
    let builder = builder(read_timeout).redirect(reqwest::redirect::Policy::none());
    trust.apply(builder)?.build().map_err(trust::Error::Client)
}

fn builder(read_timeout: Duration) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("ims-job-agent/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(read_timeout)
}
