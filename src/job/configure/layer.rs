//! One layer: clones, runs, packs and saves it.

use std::path::PathBuf;

use anyhow::Context;
use jiff::Timestamp;

use super::super::base::{self, Base};
use super::super::package::pack;
use super::session::{self, Play};
use super::{Checkpoint, Run};
use crate::attend::root::{ImageRoot, Worked};
use crate::blocking::blocking;
use crate::configure::progress::Applied;
use crate::configure::{Source, ansible, git};
use crate::contract::defaults::{INITRD, kernel_name};
use crate::publish::boot;
use crate::telemetry::chain;
use crate::telemetry::progress::{Meter, Unit};
use crate::workspace::{self, Cleanup, Workspace};
use squashfs::diff::Diff;
use squashfs::reuse::Range;

/// The squashfs of a layer that was packed, not yet the checkpoint.
const NEXT: &str = "next.sqsh";

impl Run<'_> {
    /// Applies the layer at `position` of those that were chosen, and makes its result the checkpoint,
    /// known by `digest`.
    pub(super) async fn layer(&mut self, position: usize, digest: &str) -> anyhow::Result<()> {
        let index = self.chosen[position];
        let layer = &self.request.configuration.layers[index];
        let started = Timestamp::now();
        tracing::info!(index, layer = layer.name, playbook = layer.playbook, "applying a layer");
        let (directory, commit) =
            self.check_out(&format!("layer-{position}"), &layer.source).await?;
        let play = Play {
            image_id: self.image.id.clone(),
            groups: self.request.groups.clone(),
            layer: layer.name.clone(),
            directory,
            playbook: layer.playbook.clone(),
            additional_inventory: self.inventory.as_ref().map(|(directory, _)| directory.clone()),
            log: self.checkpoint.directory.join(format!("logs/layer-{index}.log")),
            dkms: layer.special_parameters.ims_require_dkms,
            arch: self.arch,
            debug: self.request.debug,
            rights: self.request.rights.clone(),
        };
        let (by_hand, ranges) = self.apply(play).await?;
        let diff = self.compare(position, &ranges).await?;
        let applied = Applied {
            index,
            name: layer.name.clone(),
            clone_url: git::public_url(&layer.source.clone_url),
            branch: layer.source.branch.clone(),
            commit,
            playbook: layer.playbook.clone(),
            inventory_commit: self.inventory.as_ref().map(|(_, commit)| commit.clone()),
            started,
            ended: Timestamp::now(),
            by_hand,
            added: diff.added.len(),
            removed: diff.removed.len(),
            changed: diff.changed.len(),
            image_id: None,
        };
        self.checkpoint.advance(digest, &ranges, applied)
    }

    /// Clones the additional inventory, if there is one, for all layers of this run.
    pub(super) async fn clone_inventory(&mut self) -> anyhow::Result<()> {
        let Some(source) = &self.request.configuration.additional_inventory else { return Ok(()) };
        let url = git::public_url(&source.clone_url);
        let cloned = self.check_out("inventory", source).await;
        let (directory, commit) = cloned.context("cannot get the additional inventory")?;
        let (checked, stop) = (directory.clone(), self.stop.clone());
        blocking(move || Ok(ansible::check_inventory(&checked, &stop)?)).await.with_context(
            || {
                format!(
                    "ansible finds no inventory in commit {commit} of {url}: it has neither hosts \
                     nor variables"
                )
            },
        )?;
        self.inventory = Some((directory, commit));
        Ok(())
    }

    /// Clones a repository to a directory of that name that is removed with this run.
    async fn check_out(&self, name: &str, source: &Source) -> anyhow::Result<(PathBuf, String)> {
        let directory = self.keys.scratch.path().join(name);
        if directory.exists() {
            std::fs::remove_dir_all(&directory)
                .with_context(|| format!("cannot remove {}", directory.display()))?;
        }
        let (source, stop) = (source.clone(), self.stop.clone());
        blocking(move || {
            let commit = git::clone(&source, &directory, &stop)?;
            tracing::info!(url = git::public_url(&source.clone_url), commit, "cloned");
            Ok((directory, commit))
        })
        .await
    }

    /// Opens the image root, plays, packs to [`NEXT`] and closes the root.
    async fn apply(&self, play: Play) -> anyhow::Result<(bool, Vec<Range>)> {
        let (mut workspace, base) = tokio::task::block_in_place(|| {
            self.checkpoint.open_root(self.request.workspace, self.stop)
        })?;
        let result = self.play_and_pack(&workspace, base, play).await;
        let closed = blocking(move || Ok(workspace.close(Cleanup::Remove)?)).await;
        if let (Err(error), Err(_)) = (&closed, &result) {
            tracing::error!("cannot close the image root: {}", chain(error.as_ref()));
        }
        let packed = result?;
        closed?;
        Ok(packed)
    }

    async fn play_and_pack(
        &self,
        workspace: &Workspace,
        base: Base,
        play: Play,
    ) -> anyhow::Result<(bool, Vec<Range>)> {
        let (root, parent) = (workspace.root(), workspace.layout().parent().to_owned());
        let work = async {
            let by_hand = session::play(&self.keys, workspace, play, self.stop).await;
            let root = workspace.root();
            let cleared =
                blocking(move || Ok(workspace::remove_stale_signals(&parent, &root)?)).await;
            by_hand.map(|by_hand| (by_hand, cleared))
        };
        let Worked { result, restored } = self.image_root(workspace).during(work).await?;
        let (by_hand, cleared) = result?;
        cleared.and(restored).context("cannot remove the files of the session from the image")?;
        let (out, kernel, stop) =
            (self.checkpoint.directory.join(NEXT), self.kernel(), self.stop.clone());
        let ranges = blocking(move || {
            boot::warn_of_missing(&root, &kernel, INITRD)?;
            workspace::close_kiwi_directory(&root)?;
            let meter = Meter::start("squash", Unit::Bytes, 0);
            let ranges = pack(Some(&base), &root, &out, &meter, &stop)
                .with_context(|| format!("cannot pack the layer to {}", out.display()))?;
            meter.finish();
            Ok(ranges)
        })
        .await?;
        Ok((by_hand, ranges))
    }

    /// The root as a layer finds it.
    fn image_root(&self, workspace: &Workspace) -> ImageRoot {
        ImageRoot {
            root: workspace.root(),
            layout: workspace.layout().clone(),
            ca_cert: self.request.ca_cert.clone(),
            name: "image root",
            boot_files: Some((self.kernel(), INITRD.into())),
            signals_are_stale: true,
        }
    }

    /// Writes down what the layer changed.
    async fn compare(&self, position: usize, ranges: &[Range]) -> anyhow::Result<Diff> {
        let (old, new) = (self.checkpoint.image(), self.checkpoint.directory.join(NEXT));
        let (path, ranges) = (self.checkpoint.changes(position), ranges.to_vec());
        blocking(move || base::write_changes(&old, &new, &ranges, None, &path)).await
    }

    pub(super) fn kernel(&self) -> String {
        kernel_name(self.arch, None)
    }
}

impl Checkpoint {
    /// Makes what was packed the checkpoint; the one before goes, unless it is the base.
    fn advance(&mut self, chain: &str, ranges: &[Range], applied: Applied) -> anyhow::Result<()> {
        let name = format!("layer-{}.sqsh", applied.index);
        let (next, path, before) =
            (self.directory.join(NEXT), self.directory.join(&name), self.image());
        let is_base = before == self.base();
        std::fs::File::open(&next)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&next, &path))
            .with_context(|| format!("cannot save the checkpoint {}", path.display()))?;
        tracing::info!(
            layer = applied.name,
            added = applied.added,
            removed = applied.removed,
            changed = applied.changed,
            checkpoint = %path.display(),
            "layer applied"
        );
        self.state.advance(chain.into(), name, ranges, applied);
        self.save()?;
        if !is_base && let Err(error) = std::fs::remove_file(&before) {
            tracing::warn!(path = %before.display(), %error, "cannot remove the last checkpoint");
        }
        Ok(())
    }
}
