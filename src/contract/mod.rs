//! The interface of a job to its surroundings: environment, signal files, statuses.
//!
//! Pure: reads no file, opens no connection. `cli` fills a [`JobContract`] from the environment,
//! once; every other room gets values from it.

pub mod defaults;
mod engine;
pub mod files;
mod job;
mod pod;
mod safekeeping;
mod values;
pub mod vars;

pub use engine::Engine;
pub use job::{
    Action, Download, Faults, ImageNames, ImsAccess, JobContract, Recipe, S3Access, Session, record,
};
pub use pod::{SessionContract, StepContract};
pub use safekeeping::{RescuePlace, Safekeeping};
pub use values::{boot_file, duration, log_level, s3_trust};

#[cfg(test)]
mod tests;
