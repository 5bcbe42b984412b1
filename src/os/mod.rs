//! Mounts, namespaces, processes, capabilities: the only room with `unsafe` and `nix`.
//!
//! Guards have an explicit `close()` that reports errors; `Drop` is the last resort.

pub mod fs;
