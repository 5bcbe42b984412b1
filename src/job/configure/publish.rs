//! Publishes checkpoints as images: the last one, and on request those between.

use std::path::PathBuf;

use anyhow::Context;

use super::super::base;
use super::Run;
use crate::blocking::blocking;
use crate::configure::progress::InStore;
use crate::configure::provenance::{LayerProvenance, Origin, Provenance};
use crate::contract::defaults;
use crate::publish::journal::Journal;
use crate::publish::manifest::Kind;
use crate::publish::{self, boot};
use crate::workspace::Cleanup;

impl Run<'_> {
    /// Publishes the layer applied last, if that is asked for and not done.
    pub(super) async fn publish_layer(&mut self) -> anyhow::Result<()> {
        let applied = &self.checkpoint.state.applied;
        let Some(last) = applied.last().filter(|last| last.image_id.is_none()) else {
            return Ok(());
        };
        if !self.request.publish_layers {
            return Ok(());
        }
        let name = format!("{}_{}_{}", self.name, last.index, last.name);
        let changes = self.checkpoint.changes(applied.len() - 1);
        self.publish(name, changes).await.map(drop)
    }

    /// Publishes the last checkpoint; the id of its image. One that an earlier run has published is
    /// not published again.
    pub(super) async fn publish_result(&mut self) -> anyhow::Result<String> {
        let last = self.checkpoint.state.applied.last().context("no layer was applied")?;
        if let Some(id) = &last.image_id {
            return Ok(id.clone());
        }
        let (old, new) = (self.checkpoint.base(), self.checkpoint.image());
        let ranges = self.checkpoint.state.from_base.clone();
        let link = self.image.link.clone();
        let path = self.checkpoint.directory.join("changes.json");
        let changes = path.clone();
        blocking(move || base::write_changes(&old, &new, &ranges, link.as_ref(), &path)).await?;
        self.publish(self.name.clone(), changes).await
    }

    async fn publish(&mut self, name: String, changes: PathBuf) -> anyhow::Result<String> {
        let provenance = self.write_provenance()?;
        let state = &self.checkpoint.state;
        let reuse = base::in_store(
            &self.backend.store,
            &state.in_store.artifact.link,
            &state.in_store.ranges,
            self.stop,
        )
        .await;
        let (mut workspace, _) = tokio::task::block_in_place(|| {
            self.checkpoint.open_root(self.request.workspace, self.stop)
        })?;
        let published = async {
            let names = boot::Names {
                kernel: self.kernel(),
                initrd: defaults::INITRD.into(),
                parameters: defaults::KERNEL_PARAMETERS.into(),
                debug_kernel: None,
            };
            let request = publish::Request {
                image_name: name,
                arch: self.arch,
                bucket: self.backend.bucket.clone(),
                job_id: None,
                rootfs: self.checkpoint.image(),
                reuse,
                boot: boot::find(&workspace.root(), &names)?,
                changes: Some(changes),
                provenance: Some(provenance),
                journal: Journal::at(self.checkpoint.directory.join("publication.json")),
            };
            let published =
                publish::publish(&self.backend.ims, &self.backend.store, request, self.stop).await;
            published.context("cannot publish the image")
        }
        .await;
        let closed = blocking(move || Ok(workspace.close(Cleanup::Remove)?)).await;
        let published = published?;
        self.remember(published).and_then(|id| closed.map(|()| id))
    }

    /// Writes down that the checkpoint is an image now.
    fn remember(&mut self, published: publish::Published) -> anyhow::Result<String> {
        let size = std::fs::metadata(self.checkpoint.image())?.len();
        let state = &mut self.checkpoint.state;
        let is_rootfs = |media_type: &str| media_type == Kind::Rootfs.media_type();
        let mut artifacts = published.artifacts.into_iter();
        if let Some(rootfs) = artifacts.find(|artifact| is_rootfs(&artifact.media_type)) {
            state.in_store = InStore::whole(rootfs, size);
        }
        if let Some(last) = state.applied.last_mut() {
            last.image_id = Some(published.image.id.clone());
        }
        self.checkpoint.save()?;
        Ok(published.image.id)
    }

    fn write_provenance(&self) -> anyhow::Result<PathBuf> {
        let state = &self.checkpoint.state;
        let layers: anyhow::Result<Vec<_>> = (0..)
            .zip(&state.applied)
            .map(|(position, applied)| {
                let path = self.checkpoint.changes(position);
                let failed = || format!("cannot read {}", path.display());
                let json = std::fs::read(&path).with_context(failed)?;
                let changes = serde_json::from_slice(&json).with_context(failed)?;
                Ok(LayerProvenance { applied, changes })
            })
            .collect();
        let origin = Origin {
            image_id: &self.image.id,
            image_name: &self.image.name,
            configuration: &self.request.configuration.name,
            groups: &self.request.groups,
            ansible: &self.ansible,
            started: state.started,
        };
        let path = self.checkpoint.directory.join("provenance.json");
        let json = serde_json::to_vec_pretty(&Provenance::new(&origin, layers?))
            .context("cannot write the provenance as JSON")?;
        std::fs::write(&path, json).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}
