//! A remote build node: another host that does the work of a job, over SSH.
//!
//! Called by `job::remote` alone, on both ends. In the pod: `client` connects, `install` brings the
//! program there, `link` runs it and listens, `relay` lets the users in, `files` moves files. On the
//! node: `node` is the other end of `link`. Their messages are in `wire`.

mod client;
mod error;
mod files;
mod hostkey;
mod install;
mod link;
pub mod node;
mod relay;
pub mod wire;

pub use client::{Access, Connection, Target};
pub use error::Error;
pub use install::Programs;
pub use link::NodeChannel;
pub use relay::serve as relay;

use std::time::Duration;

/// Between two heartbeats, in both directions. With the default of `REMOTE_HEARTBEAT_TIMEOUT_COUNT` the
/// other side is given up after a minute, as in the original job image.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// A word of a shell's command line.
fn quoted(text: &str) -> String {
    shlex::try_quote(text).expect("no path holds a NUL byte").into_owned()
}
