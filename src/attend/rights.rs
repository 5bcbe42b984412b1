//! The network filter that the operator chose, for as long as a job needs it.

use anyhow::Context;

use crate::blocking::blocking;
use crate::jail::network::{Filter, Network, Rules};
use crate::jail::{Capability, Rights, UNFILTERED};

/// What keeps sessions from the services of this host, if it is wanted. `port` is that of the job's own
/// SSH server.
pub(crate) async fn filter(rights: &Rights, port: Option<u16>) -> anyhow::Result<Option<Filter>> {
    if rights.network == Network::Host {
        return Ok(None);
    }
    if rights.capabilities.contains(&Capability::NetRaw) {
        tracing::warn!(
            "with net_raw, sessions can read the traffic of others in spite of the \
                        filter"
        );
    }
    let mut refused = rights.refused_ports.clone();
    refused.extend(port);
    let made = blocking(move || Ok(Filter::make(&Rules::of_this_host(refused)?)?)).await;
    made.map(Some).with_context(|| {
        format!("cannot keep sessions from the services of this host; {UNFILTERED}")
    })
}

/// Whether what is wanted can be had: asked before anything is fetched.
pub(crate) async fn check(rights: &Rights) -> anyhow::Result<()> {
    remove(filter(rights, None).await?).await;
    Ok(())
}

/// Takes the filter's group away, when all that it was for has been closed.
pub(crate) async fn remove(filter: Option<Filter>) {
    let Some(filter) = filter else { return };
    if let Err(error) = blocking(move || Ok(filter.remove()?)).await {
        // Empty, it harms nobody; the next job removes it.
        tracing::warn!("cannot remove the control group of the sessions: {error:#}");
    }
}
