//! What goes wrong around a job, on purpose: wrong input, dead and failing services, a full disk,
//! SIGTERM at every stage. `run` is started as a pod starts it, between proxies that fail as told.
//!
//! Each job must end in a clear error and the right exit code and status, and leave nothing behind
//! but what another try needs.

mod disk;
mod environment;
mod hold;
mod ims;
mod input;
mod logs;
mod network;
mod rescue;
mod restart;
mod s3;
mod script;
mod shapes;
mod stop;
#[path = "../support/mod.rs"]
mod support;

use support::pod;
