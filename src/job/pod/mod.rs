//! A job whose parts run in several containers of one pod, as contract section 3 has it.
//!
//! The parts share the job's directory and communicate through files in it: the agent creates
//! `ready` when the user may log in, the container of the sessions creates `exiting` when all of
//! them have ended, and either creates `pod_error` when it cannot continue.

mod agent;
mod alive;
mod sessions;
pub mod steps;

pub(super) use agent::{end, hand_over};
pub use sessions::{SessionServer, serve_sessions};

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::attend::grace::{self, Check};

/// What is in the file `ready`.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    check: Option<Check>,
    grace: grace::Limits,
}

/// Says something to the other containers; what is in the file is for people.
fn write_signal(parent: &Path, name: &str, why: &str) {
    let (path, new) = (parent.join(name), parent.join(format!(".{name}.new")));
    // Whoever sees the file reads it at once, and all of it must be there.
    if let Err(error) = std::fs::write(&new, why).and_then(|()| std::fs::rename(&new, &path)) {
        tracing::warn!(path = %path.display(), %error, "cannot notify the other containers of the \
            pod");
    }
}
