//! Applies a configuration to an image layer by layer, as CFS does: the configuration, the two
//! programs that apply it (git, ansible-playbook), and the records of a run.
//!
//! Called by `job::configure`, which knows the order of things, by `cli` and by `standalone::cfs`. No
//! sessions, images or registries here.

pub mod ansible;
pub mod configuration;
pub mod git;
pub mod inventory;
pub mod progress;
pub mod provenance;
pub mod report;

pub use configuration::{Configuration, Layer, Source};
