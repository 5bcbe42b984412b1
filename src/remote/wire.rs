//! The messages between pod and node: lines of JSON, on stdin and stdout of the program on the
//! node.
//!
//! Both ends are the same build (the pod installs the program), so there are no versions.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::contract::{Engine, ImageNames, Session};
use crate::jail::Rights;
use crate::ssh::Forwarding;
use crate::workspace::Mode;
use ims_client::Link;
use ims_client::Status;
use net::Trust;
use squashfs::reuse::Range;

/// What comes before everything else is a [`Task`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToNode {
    Task(Box<Task>),
    Heartbeat,
    /// The answer to [`ToPod::NeedUrl`], or why there is none.
    Url(Result<String, String>),
    /// The pod has what there was to be taken.
    Taken,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToPod {
    Heartbeat,
    /// A line of the node's log, as `--log-format json` writes it.
    Log(Value),
    /// The job has come so far.
    Status(Status),
    /// The image is to be fetched now: from where?
    NeedUrl,
    /// Users can be let in, at this port of the node's loopback.
    Open {
        port: u16,
    },
    /// All that kiwi has said, ready to be taken.
    BuildLog(File),
    /// What the work has made, ready to be taken.
    Made(Box<Made>),
    Ended(Ended),
}

/// How the work ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    Well,
    /// The user touched this file.
    GaveUp(PathBuf),
    Failed(String),
}

/// All that a node needs to know of a job. There are no credentials in it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Task {
    pub job_id: Uuid,
    /// `IMAGE_ROOT_PARENT`, as the users know it.
    pub parent: PathBuf,
    pub image: ImageNames,
    pub session: Session,
    pub engine: Engine,
    pub forwarding: Forwarding,
    pub rights: Rights,
    pub idle: Option<Duration>,
    /// From the start of the work to the signal of the user.
    pub deadline: Option<Duration>,
    /// How long users have to repair an image that cannot be packaged; without a person logged in.
    pub grace: (Duration, Duration),
    /// The node gives up when it has not heard from the pod for so long.
    pub patience: Duration,
    /// Name of the CA certificate's file, where the inbox has it as an image would.
    pub ca_cert: PathBuf,
    pub work: Work,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    Customize(Customize),
    Create(Create),
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Customize {
    pub workspace: Mode,
    pub md5: Option<String>,
    pub etag: Option<String>,
    /// Whom to trust as the store; a CA file lies in the inbox as [`inbox::STORE_CA`].
    pub trust: Trust,
    /// Silence of the store after which a request has failed.
    pub timeout: Duration,
    /// The image that is customized, as its record names it.
    pub base: Option<Link>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Create {
    /// Let a user look at a build that failed.
    pub debug: bool,
    /// Kiwi logs more.
    pub verbose: bool,
    /// The image gets the CA certificate by a package.
    pub ca_package: bool,
}

/// Files of the work's result, by their paths on the node.
#[derive(Debug, Serialize, Deserialize)]
pub struct Made {
    pub rootfs: File,
    pub kernel: File,
    pub initrd: File,
    pub parameters: Option<File>,
    pub changes: Option<File>,
    /// What of the base image is in `rootfs`.
    pub ranges: Vec<Range>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct File {
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Hex.
    pub md5: String,
}

/// Files that a job brings to its node: an archive in the job's directory there, and what is in it.
pub mod inbox {
    pub const ARCHIVE: &str = "inbox.tar";
    pub const DIRECTORY: &str = "inbox";
    /// Where [`crate::workspace::put_in_ca`] puts the site's certificates, as in an image.
    pub const CA: &str = "etc/cray/ca";
    pub const AUTHORIZED_KEYS: &str = "authorized_keys";
    pub const HOST_KEYS: &str = "host_keys";
    pub const SCRIPT: &str = "script";
    pub const STORE_CA: &str = "store_ca.crt";
    pub const RECIPE: &str = "recipe.tar";
    pub const SIGNING_KEYS: &str = "signing_keys";
}
