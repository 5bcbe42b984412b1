//! Imports and downloads images and recipes, and exports and imports the data of whole services.
//!
//! Called by `cli` alone. What is published goes through `publish`, which undoes what fails half-way.

pub mod arch;
pub mod archive;
mod backend;
pub mod boot;
pub mod check;
pub mod data;
pub mod digest;
pub mod existing;
pub mod fetch;
mod frames;
pub mod get;
pub mod import;
mod paths;
pub mod prepare;
mod publications;
pub mod recipe;
pub mod root;
pub mod source;
pub mod verify;

pub use backend::{Backend, ManifestError, RECIPES};
