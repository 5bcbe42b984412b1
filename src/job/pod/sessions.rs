//! The container that only serves the sessions: it has no secrets, and needs no IMS.

use std::path::{Path, PathBuf};

use anyhow::Context;
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{Ready, write_signal};
use crate::attend::listen::Listen;
use crate::attend::rights;
use crate::attend::session::{self, JobFacts, ReadyNotifier, ServerKeys, SessionSettings, Site};
use crate::contract::{Action, Safekeeping, SessionContract, files};
use crate::jail::Rights;
use crate::job::report::End;
use crate::telemetry::chain;
use crate::telemetry::status::Board;
use crate::watch::{self, Kind, Signal};
use crate::workspace::Layout;
use ims_client::Status;

/// What the command line adds to the environment.
#[derive(Debug)]
pub struct SessionServer {
    pub listen: Listen,
    /// Where the user's keys may be; the first that exists is read.
    pub authorized_keys: Vec<PathBuf>,
    pub rights: Rights,
    /// All steps before have been done when this container starts: a build has failed, or it has not.
    pub after_build: bool,
}

/// Waits for the agent, serves the sessions and notifies the agent when they have ended.
pub async fn serve_sessions(
    contract: SessionContract,
    server: SessionServer,
    board: Board,
    stop: CancellationToken,
) -> End {
    let parent = contract.image_root_parent.clone();
    match run(contract, &server, board, &stop).await {
        Ok(None) => End::Success,
        Ok(Some(signal)) => {
            if signal.kind == Kind::Complete
                && let Err(error) = std::fs::remove_file(&signal.path)
            {
                tracing::warn!(path = %signal.path.display(), %error, "cannot remove a file");
            }
            write_signal(&parent, files::EXITING, "");
            if signal.kind == Kind::Complete { End::Success } else { End::GaveUp }
        }
        Err(error) => {
            let error = chain(error.as_ref());
            tracing::error!("the sessions cannot continue: {error}");
            if stop.is_cancelled() {
                return End::Terminated;
            }
            write_signal(&parent, files::POD_ERROR, &error);
            End::Failed
        }
    }
}

/// `None` where there was nothing to do.
async fn run(
    contract: SessionContract,
    server: &SessionServer,
    board: Board,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Signal>> {
    let layout = Layout::new(&contract.image_root_parent);
    let build_failed = contract.image_root_parent.join(files::BUILD_FAILED);
    let create = contract.action == Action::Create;
    if create && (!contract.debug || server.after_build && !build_failed.exists()) {
        tracing::info!("this job needs no sessions");
        return Ok(None);
    }
    let mut bound = server.listen.bind()?;
    rights::check(&server.rights).await?;
    let parent = layout.parent();
    let names = [files::POD_ERROR, files::READY, files::EXITING];
    let ready = async { Ok(watch::one_of(parent, &names).await) };
    let both = async { tokio::try_join!(ready, session::host_keys(parent, &board)) };
    let both = stop.run_until_cancelled(both).await;
    let (said, host_keys) = both.context("cancelled before the agent was ready")??;
    if said != files::READY {
        tracing::info!(said, "the agent ended before the first session");
        return Ok(None);
    }
    let authorized_keys = session::authorized_keys(first_that_exists(&server.authorized_keys))?;
    let (root, purpose, script) = if create {
        (layout.build().join("image-root"), "the build failed.", None)
    } else {
        let script = contract.session.customization_script.clone();
        (layout.root(), "you can change the image now.", script)
    };
    // An agent that is not this program says nothing more.
    let ready = std::fs::read(parent.join(files::READY)).unwrap_or_default();
    let ready: Option<Ready> = serde_json::from_slice(&ready).ok();
    let (check, limits) = match ready {
        Some(ready) => (ready.check.filter(|_| !create), ready.grace),
        None => (None, (&Safekeeping::default()).into()),
    };
    let site =
        Site { root, agent: layout.agent(), purpose: purpose.into(), script, check, trouble: None };
    let facts = JobFacts {
        parent: contract.image_root_parent,
        job_id: contract.job_id,
        arch: contract.arch,
        session: contract.session,
    };
    let settings = SessionSettings {
        secrets: session::secrets(contract.oauth_dir, None),
        grace: limits,
        ..SessionSettings::new(facts, server.rights.clone(), board, stop.child_token())
    };
    let agent_failed = async {
        watch::one_of(parent, &[files::POD_ERROR]).await;
        tracing::warn!("the agent has ended");
        settings.stop.cancel();
        std::future::pending().await
    };
    let keys = ServerKeys { authorized_keys, host_keys };
    let on_ready = Shown(settings.board.clone());
    tokio::select! {
        signal = session::serve(&settings, &site, &mut bound, keys, &on_ready) => signal.map(Some),
        never = agent_failed => never,
    }
}

/// The agent of the pod sees for itself that users can log in, and reports it to IMS.
struct Shown(Board);

#[async_trait]
impl ReadyNotifier for Shown {
    async fn ready(&self) -> anyhow::Result<()> {
        self.0.set_status(Status::WaitingOnUser);
        Ok(())
    }
}

/// The last one where there is none: the error then names it.
fn first_that_exists(paths: &[PathBuf]) -> &Path {
    let found = paths.iter().find(|path| path.exists()).or(paths.last());
    found.map_or(Path::new(files::AUTHORIZED_KEYS), PathBuf::as_path)
}
