//! The directory of a run: the squashfs after the last good layer, and the progress of the run.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::super::base::Base;
use super::super::customize;
use super::Request;
use crate::blocking::blocking;
use crate::configure::progress::State;
use crate::publish::manifest::Artifact;
use crate::telemetry::progress::{Meter, Unit};
use crate::transfer::Backend;
use crate::transfer::fetch::{Wanted, fetch};
use crate::workspace::{self, Cleanup, Workspace};
use s3_client::Object;

/// The image as it was fetched.
const BASE: &str = "base.sqsh";

/// Characters of a digest that name a directory.
const NAME: usize = 12;

/// The last good image of a run, in a directory that nobody else uses meanwhile.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub directory: PathBuf,
    pub state: State,
    _lock: File,
}

impl Checkpoint {
    /// Finds the checkpoint to go on from, or fetches the image. With it come the layers that are to
    /// be applied in all, of which the checkpoint may have the first ones.
    pub async fn open(
        backend: &Backend,
        request: &Request,
        rootfs: &Artifact,
        stop: &CancellationToken,
    ) -> anyhow::Result<(Vec<usize>, Self)> {
        let (chosen, found) = plan(request)?;
        let chain = request.chain(&chosen);
        let directory = match &found {
            Some((directory, _)) => directory.clone(),
            None => {
                let last = chain.last().expect("the chain begins with the image");
                request.work_dir.join(&last[..NAME])
            }
        };
        std::fs::create_dir_all(directory.join("logs"))
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let lock = lock(&directory)?;
        let state = match found {
            Some((_, state)) => {
                tell_resumed(&state);
                state
            }
            None => {
                let size = get(backend, rootfs, &directory.join(BASE), stop).await?;
                let state = State::new(chain[0].clone(), BASE, rootfs.clone(), size);
                state.save(&directory).context("cannot write the state of the run")?;
                state
            }
        };
        Ok((chosen, Self { directory, state, _lock: lock }))
    }

    /// The squashfs of the last good layer.
    pub fn image(&self) -> PathBuf {
        self.directory.join(&self.state.checkpoint)
    }

    /// The squashfs as it was fetched.
    pub fn base(&self) -> PathBuf {
        self.directory.join(BASE)
    }

    /// What differs after the layer at `position` from the one before.
    pub fn changes(&self, position: usize) -> PathBuf {
        self.directory.join(format!("changes-{position}.json"))
    }

    pub fn save(&self) -> anyhow::Result<()> {
        self.state
            .save(&self.directory)
            .with_context(|| format!("cannot write the state in {}", self.directory.display()))
    }

    /// Opens the checkpoint's image, without what a run that was killed has left in it. Blocks.
    pub fn open_root(
        &self,
        mode: workspace::Mode,
        stop: &CancellationToken,
    ) -> anyhow::Result<(Workspace, Base)> {
        let (parent, image) = (self.directory.join("root"), self.image());
        std::fs::create_dir_all(&parent)
            .with_context(|| format!("cannot make {}", parent.display()))?;
        let options =
            workspace::Options { image: &image, image_md5: "", mode, board: None, cancel: stop };
        let open = || {
            let claim = workspace::claim(&parent, "configure")?;
            workspace::open(claim, &options).context("cannot open the image root")
        };
        let mut workspace = open()?;
        if workspace.resumed() {
            workspace.close(Cleanup::Remove)?;
            drop(workspace);
            workspace = open()?;
        }
        let record = customize::record(&workspace)?;
        let base = Base::of(&workspace, record);
        Ok((workspace, base))
    }

    /// Removes what is needed no more; logs and provenance stay.
    pub async fn finish(&self) -> anyhow::Result<()> {
        let directory = self.directory.clone();
        blocking(move || clear(&directory)).await
    }
}

/// Which layers are to be applied in all, and where a run of them has come to.
#[allow(clippy::type_complexity, reason = "a pair of what `open` needs")]
fn plan(request: &Request) -> anyhow::Result<(Vec<usize>, Option<(PathBuf, State)>)> {
    let chosen = request.chosen.clone();
    let found = find(&request.work_dir, &request.chain(&chosen))?;
    let Some(from) = request.from else { return Ok((chosen, found)) };
    let before = chosen.iter().filter(|index| **index < from).count();
    let applied = found.as_ref().map_or(0, |(_, state)| state.applied.len());
    if before == 0 {
        if let Some((directory, _)) = &found {
            tracing::info!(directory = %directory.display(), "starting over at the first layer");
            let _lock = lock(directory)?;
            clear(directory)?;
        }
        return Ok((chosen, None));
    }
    if applied == before {
        return Ok((chosen, found));
    }
    anyhow::ensure!(
        applied == 0,
        "the checkpoint of this image is after layer {}: omit --from to continue from it, or \
         start over with --from {}",
        chosen[applied - 1],
        chosen[0]
    );
    tracing::warn!(
        from,
        "there is no checkpoint: assuming that the image already contains the \
        earlier layers"
    );
    let chosen: Vec<_> = chosen.into_iter().skip(before).collect();
    let found = find(&request.work_dir, &request.chain(&chosen))?;
    Ok((chosen, found))
}

/// The run in `work_dir` that has applied the most of these layers.
fn find(work_dir: &Path, chain: &[String]) -> anyhow::Result<Option<(PathBuf, State)>> {
    let entries = match std::fs::read_dir(work_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot list {}", work_dir.display()));
        }
    };
    let mut best: Option<(PathBuf, State)> = None;
    for entry in entries {
        let directory =
            entry.with_context(|| format!("cannot list {}", work_dir.display()))?.path();
        if !directory.is_dir() {
            continue;
        }
        let state = State::load(&directory)
            .with_context(|| format!("cannot read the state in {}", directory.display()))?;
        let Some(state) = state else { continue };
        let applied = state.applied.len();
        let fits = chain.get(applied) == Some(&state.chain)
            && directory.join(&state.checkpoint).is_file()
            && directory.join(BASE).is_file();
        if fits && best.as_ref().is_none_or(|(_, best)| best.applied.len() < applied) {
            best = Some((directory, state));
        }
    }
    Ok(best)
}

fn tell_resumed(state: &State) {
    match state.applied.last() {
        None => tracing::info!("the image was fetched by an earlier run"),
        Some(last) => tracing::info!(
            index = last.index,
            layer = last.name,
            "continuing from the checkpoint after this layer"
        ),
    }
}

fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    file.try_lock()
        .with_context(|| format!("another run uses {}; wait until it ends", directory.display()))?;
    Ok(file)
}

/// Fetches the root file system of the image, verified; gives its size in bytes.
async fn get(
    backend: &Backend,
    rootfs: &Artifact,
    path: &Path,
    stop: &CancellationToken,
) -> anyhow::Result<u64> {
    let object: Object = rootfs.link.path.parse()?;
    let wanted = Wanted { object, md5: rootfs.md5.clone() };
    let meter = Meter::start("fetch", Unit::Bytes, 0);
    let fetched = fetch(&backend.store, &wanted, path, &meter, stop).await?;
    meter.finish();
    Ok(fetched.sums.size)
}

/// The state goes first: without it, what else may be left is of no meaning.
fn clear(directory: &Path) -> anyhow::Result<()> {
    let failed = |path: &Path| format!("cannot remove {}", path.display());
    let state = directory.join("state.json");
    if state.exists() {
        std::fs::remove_file(&state).with_context(|| failed(&state))?;
    }
    for entry in std::fs::read_dir(directory).with_context(|| failed(directory))? {
        let path = entry.with_context(|| failed(directory))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".sqsh") || name.ends_with(".part") || name.starts_with("changes") {
            std::fs::remove_file(&path).with_context(|| failed(&path))?;
        }
    }
    Ok(())
}
