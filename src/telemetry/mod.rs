//! Logs, progress, metrics and probes. Every room logs through `tracing`; nothing else prints.

pub mod logs;
pub mod progress;
mod sink;
pub mod status;

pub use linux::error::chain;
