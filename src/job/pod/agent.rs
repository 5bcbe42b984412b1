//! The agent's side of a pod in which another container serves the sessions.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpStream;

use super::{Ready, alive, write_signal};
use crate::attend::session::Site;
use crate::blocking::blocking;
use crate::contract::files;
use crate::job::report::{End, Outcome};
use crate::job::{Job, Listen};
use crate::watch::{self, Kind, Places, Signal};
use crate::workspace::Layout;
use ims_client::Status;

/// Longest time from `ready` to a server that accepts connections.
const SERVER_DEADLINE: Duration = Duration::from_secs(120);

/// Between two tries to reach it.
const TRY_INTERVAL: Duration = Duration::from_millis(50);

/// Lets the other container serve the sessions and waits until it has done so.
pub(in crate::job) async fn hand_over(job: &Job, site: &Site) -> anyhow::Result<Signal> {
    let parent = &job.contract.image_root_parent;
    let keys = job.options.authorized_keys.clone();
    blocking(move || share_keys(&keys)).await?;
    // What the other container looks at before it ends the sessions.
    let ready = Ready { check: site.check.clone(), grace: (&job.contract.safekeeping).into() };
    write_signal(parent, files::READY, &serde_json::to_string(&ready)?);
    let stop = &job.reporter.stop;
    let signal = stop.run_until_cancelled(attended(job, site)).await;
    signal.context("cancelled while the user worked")?
}

/// The container of the sessions may have the keys mounted, or look for them in a volume that both
/// share.
fn share_keys(keys: &Path) -> anyhow::Result<()> {
    let shared = Path::new(files::SHARED_AUTHORIZED_KEYS);
    if !keys.exists() || !shared.parent().is_some_and(Path::is_dir) {
        return Ok(());
    }
    std::fs::copy(keys, shared)
        .with_context(|| format!("cannot copy the user's keys to {}", shared.display()))?;
    Ok(())
}

async fn attended(job: &Job, site: &Site) -> anyhow::Result<Signal> {
    let parent = &job.contract.image_root_parent;
    let end = watch::one_of(parent, &[files::POD_ERROR, files::EXITING]);
    let served = async {
        wait_for_server(job.options.ssh_listen).await?;
        job.reporter.enter(Status::WaitingOnUser).await?;
        let layout = Layout::new(parent);
        anyhow::Ok(alive::watch(&layout, &job.reporter.board).await?)
    };
    let said = tokio::select! {
        said = end => said,
        failed = served => match failed? {},
    };
    if said == files::POD_ERROR {
        let why = std::fs::read_to_string(parent.join(said)).unwrap_or_default();
        anyhow::bail!("the container that serves the sessions failed: {}", why.trim());
    }
    let path = parent.join(said);
    let places = Places { parent: parent.clone(), root: site.root.clone(), build_failed: false };
    let signal = blocking(move || {
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        // A `complete` is removed by who serves the sessions, or by us later; `failed` stays.
        let found = places.look().filter(|signal| signal.kind == Kind::Failed);
        Ok(found.unwrap_or(Signal { kind: Kind::Complete, path }))
    })
    .await?;
    tracing::info!(kind = ?signal.kind, "the sessions have ended");
    Ok(signal)
}

/// CFS connects as soon as the job waits for its user. The containers of a pod share their network,
/// so a connection can be tried.
async fn wait_for_server(listen: Listen) -> anyhow::Result<()> {
    let Listen::Address(mut address) = listen else {
        anyhow::bail!("--ssh-listen must name a port where another container serves the sessions");
    };
    if address.ip().is_unspecified() {
        address = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
    }
    let accepted = async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(TRY_INTERVAL).await;
        }
    };
    tokio::time::timeout(SERVER_DEADLINE, accepted).await.with_context(|| {
        format!(
            "no SSH server accepted connections on {address} for {} s: check that the pod has a \
             container that serves the sessions, and read its log",
            SERVER_DEADLINE.as_secs()
        )
    })
}

/// Signals the end of the job to the container of the sessions, so that it ends too.
pub(in crate::job) fn end(parent: &Path, outcome: &Outcome) {
    let ready = parent.join(files::READY);
    let handed_over = ready.exists();
    if handed_over && let Err(error) = std::fs::remove_file(&ready) {
        tracing::warn!(path = %ready.display(), %error, "cannot remove a file");
    }
    match outcome.end {
        // It has ended before.
        End::Success | End::GaveUp if handed_over => {}
        End::Success | End::GaveUp => write_signal(parent, files::EXITING, "there are no sessions"),
        End::Failed | End::Terminated => {
            write_signal(parent, files::POD_ERROR, "the job has ended")
        }
    }
}
