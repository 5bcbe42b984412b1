//! Where sessions run, and what keeps them from the services of this host: set up before, and closed after.

use std::time::Duration;

use anyhow::Context;

use super::rights;
use crate::blocking::blocking;
use crate::jail::network::Filter;
use crate::jail::{self, Jail, Leftovers, Plan, Rights};
use linux::capability::CapSet;

/// Time that processes which sessions left running have between SIGTERM and SIGKILL.
const PROCESS_GRACE: Duration = Duration::from_secs(3);

/// Where sessions run; [`Place::close`] ends it.
pub(crate) struct Place {
    pub jail: Jail,
    /// What holds for the sessions, and for whatever runs beside them.
    pub filter: Option<Filter>,
}

impl Place {
    /// Sets it up as `options` have it, with the filter that `rights` ask for. `port` is that of the SSH
    /// server, if users may not reach it from a session.
    pub async fn open(
        options: jail::Options,
        rights: &Rights,
        port: Option<u16>,
    ) -> anyhow::Result<Self> {
        let filter = rights::filter(rights, port).await?;
        let options =
            jail::Options { filter: filter.clone(), more: rights.capabilities(), ..options };
        let jail = enter(options).await?;
        Ok(Self { jail, filter })
    }

    /// Ends what sessions have left here, and the place.
    pub async fn close(self) -> anyhow::Result<()> {
        let closed = close(self.jail).await;
        rights::remove(self.filter).await;
        closed
    }
}

/// Makes what sessions run in; [`close`] ends it.
pub(super) async fn enter(options: jail::Options) -> anyhow::Result<Jail> {
    let jail = blocking(move || {
        let held = CapSet::effective().context("cannot read this process's capabilities")?;
        let plan = Plan::new(options, held)?;
        Ok(Jail::establish(plan)?)
    })
    .await
    .context("cannot set up the sessions")?;
    tracing::info!("{}", jail.description());
    Ok(jail)
}

/// Ends what sessions have left in the jail, and the jail.
pub(super) async fn close(jail: Jail) -> anyhow::Result<()> {
    let leftovers = blocking(move || Ok(jail.close(PROCESS_GRACE))).await?;
    log_leftovers(&leftovers);
    let stuck: Vec<_> = leftovers.stuck.iter().map(ToString::to_string).collect();
    anyhow::ensure!(
        stuck.is_empty(),
        "cannot end processes of sessions, so the image may still change: {}",
        stuck.join(", ")
    );
    anyhow::ensure!(
        leftovers.additions.is_empty(),
        "cannot remove the files of the sessions from the image: {:?}",
        leftovers.additions
    );
    Ok(())
}

fn log_leftovers(leftovers: &Leftovers) {
    for process in &leftovers.processes {
        tracing::warn!(
            pid = process.pid,
            name = process.name,
            "killed a process that a session left running"
        );
    }
    for mount in &leftovers.mounts {
        tracing::warn!(mount, "unmounted a mount that a session left behind");
    }
}
