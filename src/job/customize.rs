//! A customize job: an image is fetched, changed by its user over SSH, and published as a new one.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::access::UserAccess;
use super::base::Base;
use super::report::GaveUp;
use super::work::Work;
use super::{Job, fetch, preflight, published};
use crate::attend::grace::{Check, Trouble};
use crate::attend::root::{ImageRoot, Worked};
use crate::attend::session::Site;
use crate::blocking::blocking;
use crate::contract::ImageNames;
use crate::publish::Published;
use crate::telemetry::chain;
use crate::telemetry::status::Board;
use crate::watch::{Kind, Signal};
use crate::workspace::{self, Claim, Cleanup, Stage, State, Workspace};
use ims_client::Status;
use s3_client::Store;
use squashfs::reuse::Record;

/// Runs the job from the fetch to the published image.
///
/// Whatever fails after the user had access, the tree stays as it is for another try.
pub(super) async fn run(job: &Job, store: &Store) -> anyhow::Result<Published> {
    let (parent, job_id) =
        (job.contract.image_root_parent.clone(), job.contract.job_id.to_string());
    // Before anything is written or reported: another agent may work here.
    let (claim, left) = blocking(move || {
        let claim = workspace::claim(&parent, &job_id)?;
        let left = left_image(&claim)?;
        Ok((claim, left))
    })
    .await?;
    let journal = claim.layout().publication();
    if left.is_some()
        && let Some(published) =
            Box::pin(published::settle_first(&job.reporter, store, &journal)).await?
    {
        if let Err(error) = blocking(move || Ok(workspace::discard(&claim)?)).await {
            tracing::error!("cannot remove the image root: {}", chain(error.as_ref()));
        }
        return Ok(published);
    }
    let mut access = UserAccess::prepare(job).await?;

    job.reporter.enter(Status::FetchingImage).await?;
    let warning = look_ahead(job, store, left.as_ref()).await?;
    let (keys, opened) = tokio::join!(access.make_host_keys(), open(job, store, claim, left));
    let (mut workspace, base) = opened?;
    let result = match keys {
        Ok(()) => Box::pin(Work::new(job, store, &workspace, base, access, warning).run()).await,
        Err(error) => Err(error),
    };
    let cleanup = if result.is_ok() { Cleanup::Remove } else { Cleanup::Keep };
    let closed = blocking(move || Ok(workspace.close(cleanup)?)).await;
    if let Err(error) = closed {
        tracing::error!("cannot close the image root: {}", chain(error.as_ref()));
    }
    result
}

/// Whether the image could be published in the end; gives a warning for the users.
async fn look_ahead(
    job: &Job,
    store: &Store,
    left: Option<&State>,
) -> anyhow::Result<Option<String>> {
    if left.is_some_and(|state| state.stage == Stage::Complete) {
        // Publishing itself shows it soon.
        return Ok(None);
    }
    match Box::pin(preflight::check(job, store)).await {
        // What a user has made before a restart is not lost for a refusal.
        Err(error) if left.is_some() && !job.reporter.stop.is_cancelled() => {
            Ok(Some(preflight::warn(error.as_ref())))
        }
        checked => checked,
    }
}

/// What users are let in to.
pub(super) struct Attendance {
    pub purpose: String,
    /// Run once the shell is up.
    pub script: Option<PathBuf>,
    /// Why the job is held; users are let in although they were done.
    pub trouble: Option<Trouble>,
}

/// Everything from an open image root to one that can be packed: the root is prepared, `serve` lets users
/// in and is over when all sessions have ended, and the root is restored.
pub(super) async fn attend(
    workspace: &Workspace,
    image: &ImageNames,
    ca_cert: &Path,
    attendance: Attendance,
    serve: impl AsyncFnOnce(Site) -> anyhow::Result<Signal>,
) -> anyhow::Result<()> {
    let again = attendance.trouble.is_some();
    let root = image_root(workspace, image, ca_cert, again);
    let work = async {
        let gave_up = match workspace.state().stage {
            Stage::Complete if !again => {
                tracing::info!("the user completed the image before the agent was restarted");
                None
            }
            _ => {
                let signal = serve(attendance.site(workspace, image)).await?;
                (signal.kind != Kind::Complete).then_some(GaveUp { file: signal.path })
            }
        };
        // Before the signal is removed: a restarted agent must not wait for a user who is gone.
        if gave_up.is_none() {
            mark(workspace, Stage::Complete);
        }
        Ok(gave_up)
    };
    let Worked { result, restored } = root.during(work).await?;
    if let Some(gave_up) = result? {
        return Err(gave_up.into());
    }
    restored.context("cannot remove the files of the session from the image")
}

impl Attendance {
    fn site(self, workspace: &Workspace, image: &ImageNames) -> Site {
        Site {
            root: workspace.root(),
            agent: workspace.layout().agent(),
            purpose: self.purpose,
            script: self.script,
            check: Some(Check::of(image)),
            trouble: self.trouble,
        }
    }
}

/// Writes down how far the user is, for an agent that is started again.
pub(super) fn mark(workspace: &Workspace, stage: Stage) {
    if let Err(error) = workspace.mark(stage) {
        tracing::warn!(
            ?stage,
            "cannot record whether the user is done, in case the agent is restarted: {}",
            chain(&error)
        );
    }
}

/// The root as users find it: the first time, or `again` because of trouble.
fn image_root(workspace: &Workspace, image: &ImageNames, ca_cert: &Path, again: bool) -> ImageRoot {
    ImageRoot {
        root: workspace.root(),
        layout: workspace.layout().clone(),
        ca_cert: ca_cert.to_owned(),
        name: "image root",
        boot_files: (!again).then(|| (image.kernel.clone(), image.initrd.clone())),
        // After a restart a signal is not stale: the user may have given it while no agent ran.
        signals_are_stale: !workspace.resumed() && !again,
    }
}

/// Fetches the image and opens the image root; or finds both again after a restart of the agent.
async fn open(
    job: &Job,
    store: &Store,
    claim: Claim,
    left: Option<State>,
) -> anyhow::Result<(Workspace, Base)> {
    let md5 = match left {
        Some(state) => {
            tracing::info!("the image was fetched by an earlier run of this job");
            state.image.md5
        }
        None => {
            fetch::image(job, store, &claim.layout().image()).await?;
            job.contract.download.md5.clone().unwrap_or_default()
        }
    };
    open_root(Opening {
        claim,
        md5,
        mode: job.options.workspace,
        board: job.reporter.board.clone(),
        stop: job.reporter.stop.clone(),
    })
    .await
}

/// An image that was fetched, and what is to become of it.
pub(super) struct Opening {
    pub claim: Claim,
    /// Of the image, where it is known.
    pub md5: String,
    pub mode: workspace::Mode,
    pub board: Board,
    pub stop: CancellationToken,
}

/// Makes an image root of a fetched image.
pub(super) async fn open_root(opening: Opening) -> anyhow::Result<(Workspace, Base)> {
    blocking(move || {
        let options = workspace::Options {
            image: &opening.claim.layout().image(),
            image_md5: &opening.md5,
            mode: opening.mode,
            board: Some(&opening.board),
            cancel: &opening.stop,
        };
        let workspace = workspace::open(opening.claim, &options);
        let workspace = workspace.context("cannot open the image root")?;
        let record = record(&workspace)?;
        let base = Base::of(&workspace, record);
        Ok((workspace, base))
    })
    .await
}

/// What the files of a root look like that was just unpacked: by this, changed ones are known later.
pub(super) fn record(workspace: &Workspace) -> anyhow::Result<Option<Record>> {
    if workspace.kind() != workspace::Kind::Unpacked || workspace.resumed() {
        return Ok(None);
    }
    let record = Record::new(workspace.image(), &workspace.root())
        .context("cannot record the state of the unpacked files")?;
    Ok(Some(record))
}

/// What an earlier run of this job has left, if it has; an error if it was another job.
pub(super) fn left_state(claim: &Claim) -> anyhow::Result<Option<State>> {
    let state = State::load(claim.layout())?;
    if let Some(state) = &state {
        anyhow::ensure!(
            state.job_id == claim.job_id(),
            "{} contains the work of job {}: use another directory for this job, or remove that one",
            claim.layout().agent().display(),
            state.job_id
        );
    }
    Ok(state)
}

/// The state of an earlier run of this job that got as far as letting the user in. Nothing may be
/// fetched over what another job has left, nor over the base of changes that a user has made.
pub(super) fn left_image(claim: &Claim) -> anyhow::Result<Option<State>> {
    let Some(state) = left_state(claim)?.filter(State::is_made) else { return Ok(None) };
    let (image, agent) = (claim.layout().image(), claim.layout().agent());
    let size = std::fs::metadata(&image)
        .with_context(|| format!("the image of an earlier run is missing: {}", image.display()))?
        .len();
    anyhow::ensure!(
        size == state.image.size,
        "{} has {size} bytes but had {} when it was downloaded: the work in {} needs the original \
         image",
        image.display(),
        state.image.size,
        agent.display()
    );
    Ok(Some(state))
}
