//! The settings of the server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::authorized_keys::AuthorizedKeys;
use super::hostkeys::HostKeys;
use crate::jail::Jail;

/// Everything a server needs besides its listener.
#[derive(Debug, Clone)]
pub struct Config {
    pub host_keys: HostKeys,
    pub authorized_keys: AuthorizedKeys,
    /// Where sessions run, and as whom.
    pub jail: Jail,
    /// Shown when a login shell starts on a terminal: which job and image this is, how to end it.
    pub motd: Motd,
    pub forwarding: Forwarding,
    pub limits: Limits,
    /// Where input that programs do not read is kept. Files there have no names.
    pub spill_directory: PathBuf,
    /// Where what terminals show is recorded; `None`: nowhere.
    pub record: Option<PathBuf>,
}

/// Creates the message of the day, for each login: its information on the image may have changed.
#[derive(Clone)]
pub struct Motd(Arc<dyn Fn() -> String + Send + Sync>);

impl Motd {
    pub fn new(text: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(text))
    }

    pub(super) fn text(&self) -> String {
        (self.0)()
    }
}

/// One that stays the same.
impl From<String> for Motd {
    fn from(text: String) -> Self {
        Self::new(move || text.clone())
    }
}

impl std::fmt::Debug for Motd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Motd")
    }
}

/// Which forwarding the clients may use (keys may be restricted further).
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
pub enum Forwarding {
    /// No forwarding at all.
    None,
    /// From the client to the job (`ssh -L`, `-D`, `-W`).
    Local,
    /// Both directions (also `ssh -R`, `-A`).
    #[default]
    All,
}

/// The limits of sshd_config(5), by its names, and some of our own.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A connection that has not logged in by then is cut.
    pub login_grace_time: Duration,
    pub max_auth_tries: u32,
    pub max_startups: MaxStartups,
    /// Open session channels on one connection.
    pub max_sessions: usize,
    /// Channels of one connection that were closed by us before its client did: the library keeps some
    /// 5 KB of each. Then it gets no more, and has to connect again (ssh does so by itself).
    pub max_closed: usize,
    /// How long a client may be silent before a keepalive request is sent...
    pub client_alive_interval: Duration,
    /// ...and how often it may fail to answer.
    pub client_alive_count_max: u32,
    /// Memory, in bytes, for what all clients sent and programs have not read.
    pub queued_memory: u64,
    /// Disk, in bytes, for the same.
    pub queued_disk: u64,
}

/// `MaxStartups start:rate:full`: from `start` connections that have not logged in, new ones are
/// dropped with a chance of `rate` percent, rising to all of them at `full`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxStartups {
    pub start: u32,
    pub rate: u32,
    pub full: u32,
    /// `PerSourceMaxStartups`: of one address. `None` by default, as in sshd: behind a Kubernetes
    /// service all clients may come from one address.
    pub per_source: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            login_grace_time: Duration::from_secs(120),
            max_auth_tries: 6,
            max_startups: MaxStartups { start: 10, rate: 30, full: 100, per_source: None },
            // sshd's 10 is too few for a multiplexed connection of an Ansible run with many forks.
            max_sessions: 64,
            max_closed: 32768,
            client_alive_interval: Duration::from_secs(60),
            client_alive_count_max: 10,
            queued_memory: 64 << 20,
            queued_disk: 4 << 30,
        }
    }
}
