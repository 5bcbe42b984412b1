//! `provenance.json`: the sources of an image, published beside its manifest.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::progress::Applied;

/// Version of the file.
const VERSION: &str = "1.0";

/// Where a configured image comes from.
#[derive(Debug, Serialize)]
pub struct Provenance<'a> {
    version: &'static str,
    pub base_image_id: &'a str,
    pub base_image_name: &'a str,
    pub configuration: &'a str,
    pub groups: &'a [String],
    pub layers: Vec<LayerProvenance<'a>>,
    pub versions: Versions<'a>,
    pub started: Timestamp,
    pub ended: Timestamp,
}

#[derive(Debug, Serialize)]
pub struct LayerProvenance<'a> {
    #[serde(flatten)]
    pub applied: &'a Applied,
    /// As in `changes.json`, against the layer before.
    pub changes: Value,
}

#[derive(Debug, Serialize)]
pub struct Versions<'a> {
    pub ims_job_agent: &'static str,
    pub ansible: &'a str,
}

/// What is the same for every layer.
#[derive(Debug)]
pub struct Origin<'a> {
    pub image_id: &'a str,
    pub image_name: &'a str,
    pub configuration: &'a str,
    pub groups: &'a [String],
    pub ansible: &'a str,
    pub started: Timestamp,
}

impl<'a> Provenance<'a> {
    pub fn new(origin: &Origin<'a>, layers: Vec<LayerProvenance<'a>>) -> Self {
        Self {
            version: VERSION,
            base_image_id: origin.image_id,
            base_image_name: origin.image_name,
            configuration: origin.configuration,
            groups: origin.groups,
            layers,
            versions: Versions {
                ims_job_agent: env!("CARGO_PKG_VERSION"),
                ansible: origin.ansible,
            },
            started: origin.started,
            ended: Timestamp::now(),
        }
    }
}
