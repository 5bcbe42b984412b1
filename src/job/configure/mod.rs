//! Applies a configuration to an image, layer by layer: fetches the image, runs each layer in its
//! own session, saves a checkpoint after each, publishes.
//!
//! Called by `cli`. What a layer does is in `layer`, what it leaves in `checkpoint`.

mod checkpoint;
mod layer;
mod publish;
mod session;

use std::path::PathBuf;

use anyhow::Context;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::fetch;
use crate::blocking::blocking;
use crate::configure::{Configuration, ansible, progress};
use crate::jail::Rights;
use crate::telemetry::chain;
use crate::transfer::Backend;
use crate::workspace;
use checkpoint::Checkpoint;
use ims_client::Arch;
use ims_client::Image;
use session::Keys;

/// What is asked for; everything is checked already.
#[derive(Debug)]
pub struct Request {
    pub image_id: String,
    pub configuration: Configuration,
    /// Indices of the layers to apply, in order.
    pub chosen: Vec<usize>,
    /// Begin at this layer.
    pub from: Option<usize>,
    pub groups: Vec<String>,
    /// Name of the resulting image; by default that of the base and of the configuration.
    pub name: Option<String>,
    pub publish_layers: bool,
    /// A failed layer is left open for a user.
    pub debug: bool,
    /// Parent of the directories with checkpoints.
    pub work_dir: PathBuf,
    pub workspace: workspace::Mode,
    pub ca_cert: PathBuf,
    pub rights: Rights,
}

/// How it went.
#[derive(Debug)]
pub struct Outcome {
    pub started: Timestamp,
    /// Name of the resulting image.
    pub name: String,
    /// Id of the resulting image.
    pub result: anyhow::Result<String>,
    /// Images published of layers before the last: name of the layer, id.
    pub layers: Vec<(String, String)>,
}

/// A layer could not be applied.
#[derive(Debug, thiserror::Error)]
#[error("layer {index} ({name}) failed; {kept}: run the same command again to continue from there")]
pub struct LayerFailed {
    pub index: usize,
    pub name: String,
    /// What there is to go on from.
    pub kept: String,
}

/// A run on its way.
struct Run<'a> {
    backend: &'a Backend,
    request: &'a Request,
    stop: &'a CancellationToken,
    image: Image,
    arch: Arch,
    /// Name of the resulting image.
    name: String,
    chosen: Vec<usize>,
    ansible: String,
    keys: Keys,
    checkpoint: Checkpoint,
    /// Where the additional inventory was cloned to, and its commit.
    inventory: Option<(PathBuf, String)>,
}

/// Applies the layers and publishes the result. Nothing is left running or mounted, whatever the
/// result; a checkpoint stays unless it was published.
pub async fn configure(backend: &Backend, request: &Request, stop: &CancellationToken) -> Outcome {
    let started = Timestamp::now();
    let mut outcome = Outcome {
        started,
        name: request.name.clone().unwrap_or_default(),
        result: Ok(String::new()),
        layers: Vec::new(),
    };
    outcome.result = match Run::start(backend, request, stop).await {
        Err(error) => Err(error),
        Ok(mut run) => {
            outcome.name.clone_from(&run.name);
            let result = run.run_to_end().await;
            let published = run.checkpoint.state.applied.iter();
            outcome.layers = published
                .filter_map(|layer| Some((layer.name.clone(), layer.image_id.clone()?)))
                .collect();
            if result.is_ok()
                && let Err(error) = run.checkpoint.finish().await
            {
                tracing::warn!("the checkpoint stays: {}", chain(error.as_ref()));
            }
            result
        }
    };
    outcome
}

impl<'a> Run<'a> {
    /// Finds the image and the checkpoint, and fetches the image where there is none.
    async fn start(
        backend: &'a Backend,
        request: &'a Request,
        stop: &'a CancellationToken,
    ) -> anyhow::Result<Self> {
        let ansible = blocking({
            let stop = stop.clone();
            move || {
                ansible::version(&stop).context(
                    "cannot find ansible-playbook, which applies \
                the layers",
                )
            }
        })
        .await?;
        let image = backend
            .ims
            .image(&request.image_id, stop)
            .await
            .with_context(|| format!("cannot find image {}", request.image_id))?;
        let rootfs = fetch::rootfs(&backend.store, &image, stop)
            .await
            .context("cannot determine what to download")?;
        let arch = arch(&image)?;
        let (chosen, checkpoint) = Checkpoint::open(backend, request, &rootfs, stop).await?;
        let default_name = || format!("{}_cfs_{}", image.name, request.configuration.name);
        let name = request.name.clone().unwrap_or_else(default_name);
        let keys = blocking(Keys::make).await?;
        let inventory = None;
        Ok(Self {
            backend,
            request,
            stop,
            image,
            arch,
            name,
            chosen,
            ansible,
            keys,
            checkpoint,
            inventory,
        })
    }

    /// Applies what is left and publishes; gives the id of the resulting image.
    async fn run_to_end(&mut self) -> anyhow::Result<String> {
        let digests = self.request.chain(&self.chosen);
        if self.checkpoint.state.applied.len() < self.chosen.len() {
            self.clone_inventory().await?;
        }
        for position in self.checkpoint.state.applied.len()..self.chosen.len() {
            self.publish_layer().await?;
            let index = self.chosen[position];
            let applied = self.layer(position, &digests[position + 1]).await;
            if self.stop.is_cancelled() {
                applied.context("cancelled while applying a layer")?;
                continue;
            }
            applied.map_err(|error| error.context(self.failed(index)))?;
        }
        self.publish_result().await
    }

    fn failed(&self, index: usize) -> LayerFailed {
        let state = &self.checkpoint.state;
        let directory = self.checkpoint.directory.display();
        let kept = match state.applied.last() {
            None => format!("the image as it was fetched is kept in {directory}"),
            Some(last) => format!(
                "the checkpoint after layer {} ({}) is kept in {directory}",
                last.index, last.name
            ),
        };
        LayerFailed { index, name: self.request.configuration.layers[index].name.clone(), kept }
    }
}

impl Request {
    /// The digests by which checkpoints are known.
    fn chain(&self, chosen: &[usize]) -> Vec<String> {
        progress::chain(&self.configuration, chosen, &self.image_id, &self.groups)
    }
}

fn arch(image: &Image) -> anyhow::Result<Arch> {
    match image.arch.as_deref() {
        None | Some("") => Ok(Arch::default()),
        Some(name) => serde_json::from_value(name.into())
            .with_context(|| format!("image {} is of an unknown architecture {name:?}", image.id)),
    }
}
