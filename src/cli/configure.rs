//! `configure`: a CFS configuration applied to an image, layer by layer.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use super::connect;
use super::exit::{self, Exit};
use super::output;
use crate::configure::report::{self, Artifact, Session};
use crate::configure::{Configuration, inventory};
use crate::jail::Rights;
use crate::job::configure::{LayerFailed, Outcome, Request, configure};
use crate::telemetry::chain;
use crate::workspace;

/// Apply a CFS configuration to an image, layer by layer, with a checkpoint after each
///
/// Layers are cloned with git and run with ansible-playbook in a session inside the image. When a
/// layer fails, run the same command again to continue after the last layer that succeeded.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Id of the image record to start from
    #[arg(long, value_name = "ID")]
    image: String,

    /// The configuration, as CFS describes it (JSON)
    #[arg(long, value_name = "FILE")]
    configuration: PathBuf,

    /// Apply only these layers: indices from 0, or names, separated by commas
    #[arg(long, value_name = "LAYERS")]
    limit: Option<String>,

    /// Start at this layer (index or name), from the checkpoint before it if there is one
    #[arg(long, value_name = "LAYER")]
    from: Option<String>,

    /// Name of the resulting image [default: IMAGE_cfs_CONFIGURATION]
    #[arg(long, value_name = "RESULT")]
    name: Option<String>,

    /// Inventory group of the image, besides cfs_image; may be repeated
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,

    /// Register an image after every layer, not only after the last one
    #[arg(long)]
    publish_layers: bool,

    /// When a layer fails, keep it open for an SSH session until the user creates /tmp/complete or
    /// /tmp/failed in it
    #[arg(long)]
    debug: bool,

    /// Directory for checkpoints; needs space for three images [default:
    /// /var/tmp/ims-job-agent/configure/ID]
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,

    /// How the image root is created
    #[arg(long, value_enum, value_name = "MODE", default_value = "auto")]
    workspace: workspace::Mode,

    /// Name of the session in the result [default: name of the configuration]
    #[arg(long, value_name = "NAME")]
    session_name: Option<String>,

    #[command(flatten)]
    rights: Rights,

    #[command(flatten)]
    connection: connect::Connection,

    #[command(flatten)]
    output: output::Output,
}

pub async fn run(args: Args) -> anyhow::Result<Exit> {
    let cancel = super::shutdown_token()?;
    let request = match request(&args) {
        Ok(request) => request,
        Err(error) => {
            tracing::error!("nothing was started: {}", chain(error.as_ref()));
            return Ok(exit::USAGE);
        }
    };
    let backend = match args.connection.backend()? {
        Ok(backend) => backend,
        Err(exit) => return Ok(exit),
    };
    let outcome = configure(&backend, &request, &cancel).await;
    let exit = match &outcome.result {
        Ok(_) => exit::SUCCESS,
        Err(_) if cancel.is_cancelled() => exit::TERMINATED,
        Err(error) if error.is::<LayerFailed>() => exit::LAYER_FAILED,
        Err(_) => exit::FAILURE,
    };
    if let Err(error) = &outcome.result {
        tracing::error!("the image was not configured: {}", chain(error.as_ref()));
    }
    args.output.print(|| result(&args, &request, &outcome), || human(&outcome))?;
    Ok(exit)
}

/// Checks all that can be checked without asking anybody.
fn request(args: &Args) -> anyhow::Result<Request> {
    let path = &args.configuration;
    let json = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("configuration");
    let configuration = Configuration::parse(&json, stem)
        .with_context(|| format!("cannot use {}", path.display()))?;
    let chosen = configuration.select(args.limit.as_deref(), None)?;
    configuration.select(args.limit.as_deref(), args.from.as_deref())?;
    let from = args.from.as_deref().map(|from| configuration.find(from)).transpose()?;
    for group in &args.groups {
        inventory::check_group(group).map_err(anyhow::Error::msg)?;
    }
    uuid::Uuid::parse_str(&args.image)
        .with_context(|| format!("{:?} is not an image id", args.image))?;
    let default_dir = || Path::new("/var/tmp/ims-job-agent/configure").join(&args.image);
    Ok(Request {
        image_id: args.image.clone(),
        configuration,
        chosen,
        from,
        groups: args.groups.clone(),
        name: args.name.clone(),
        publish_layers: args.publish_layers,
        debug: args.debug,
        work_dir: args.work_dir.clone().unwrap_or_else(default_dir),
        workspace: args.workspace,
        ca_cert: args.connection.ca_cert(),
        rights: args.rights.clone(),
    })
}

/// The session as CFS describes it; where it failed, with the reason.
fn result(args: &Args, request: &Request, outcome: &Outcome) -> Value {
    let session = Session {
        name: args.session_name.as_deref().unwrap_or(&request.configuration.name),
        configuration: &request.configuration.name,
        limit: args.limit.as_deref().unwrap_or_default(),
        image_id: &request.image_id,
        result_name: &outcome.name,
        groups: &request.groups,
        started: outcome.started,
    };
    let artifact =
        |id: &String| Artifact { image_id: request.image_id.clone(), result_id: id.clone() };
    let artifact = outcome.result.as_ref().ok().map(artifact);
    let mut value = report::ended(&session, artifact.as_ref());
    if request.publish_layers {
        let layers = outcome.layers.iter();
        let layers = layers.map(|(name, id)| json!({ "name": name, "image_id": id }));
        value["layers"] = layers.collect();
    }
    if let Err(error) = &outcome.result {
        value["error"] = chain(error.as_ref()).into();
        if let Some(failed) = error.downcast_ref::<LayerFailed>() {
            value["failed_layer"] = json!({ "index": failed.index, "name": failed.name });
        }
    }
    value
}

fn human(outcome: &Outcome) -> String {
    match &outcome.result {
        Ok(id) => format!("image {id} ({})", outcome.name.escape_debug()),
        Err(_) => String::new(),
    }
}
