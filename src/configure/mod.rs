//! A configuration layer by layer, as CFS applies one to an image: what is to be done, the two programs
//! that do it (git, ansible-playbook), and what is written down of it.
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
