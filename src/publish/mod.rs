//! Publishes an image root as a registered image: boot artifacts, manifest, upload, register, roll
//! back.
//!
//! Called by `job`, which sets the job's status before and after, and by `transfer`. Publish last: every
//! artifact is verified in the store before the manifest that names it, the manifest before the
//! record's link.

pub mod boot;
pub mod earlier;
pub mod journal;
pub mod manifest;
mod register;
mod result;
#[cfg(test)]
mod tests;

pub use register::{Error, Published, Request, header_safe, publish, withdraw};
pub use result::{failure_json, pretty, result_json};
