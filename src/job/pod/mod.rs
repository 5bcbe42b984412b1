//! A job whose parts run in several containers of one pod, as contract section 3 has it.
//!
//! The parts share the job's directory and talk by files in it: the agent makes `ready` when the
//! user may come in, the container of the sessions `exiting` when all of them have ended, either of
//! them `pod_error` when it cannot go on.

mod agent;
mod alive;
mod sessions;
pub mod steps;

pub(super) use agent::{end, hand_over};
pub use sessions::{SessionServer, serve_sessions};

use std::path::Path;

/// Says something to the other containers; what is in the file is for people.
fn tell(parent: &Path, name: &str, why: &str) {
    let path = parent.join(name);
    if let Err(error) = std::fs::write(&path, why) {
        tracing::warn!(path = %path.display(), %error, "the other containers of the pod cannot be told");
    }
}
