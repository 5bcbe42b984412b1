//! The rooms of `ims-job-agent`; docs/architecture.md is the map.
//!
//! `job` alone knows the whole way of a job. Every other room does one thing, knows nothing of its
//! neighbours but their types, and can be driven from a test or the command line alone.

// The futures of the AWS SDK nest deeply.
#![recursion_limit = "256"]

pub mod attend;
mod blocking;
pub mod cli;
pub mod configure;
pub mod contract;
pub mod jail;
pub mod job;
pub mod publish;
pub mod recipe;
pub mod remote;
pub mod ssh;
pub mod standalone;
pub mod telemetry;
pub mod transfer;
pub mod watch;
pub mod workspace;

#[cfg(test)]
mod test_entry;
