//! Why an image root cannot be opened, used or closed.

use std::io;
use std::path::PathBuf;

use super::Kind;
use linux::disk::human;
use linux::{Errno, loopdev, mount};
use squashfs::external;
use squashfs::format::superblock;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {what} {path}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    /// `job_id` is that of the agent which holds it; empty where it is not known.
    #[error("{parent} is in use by another ims-job-agent (job {job_id}): stop that one first")]
    InUse { parent: PathBuf, job_id: String, source: Errno },
    #[error(
        "processes of an earlier run's sessions in {parent} cannot be ended, so the image may still \
         change: {processes}"
    )]
    Survivors { parent: PathBuf, processes: String },
    #[error("{image} is not a squashfs image")]
    NotSquashfs { image: PathBuf, source: superblock::Error },
    #[error(
        "{image} is truncated: it has {} of the {} in its superblock",
        human(*.size),
        human(*.expected)
    )]
    Truncated { image: PathBuf, size: u64, expected: u64 },
    #[error("cannot read {path}; to start over, remove it and the work that belongs to it")]
    StateUnreadable { path: PathBuf, source: serde_json::Error },
    #[error("{path} was written by another version of this program (format {version})")]
    StateVersion { path: PathBuf, version: u32 },
    #[error(
        "{agent} contains the work of job {theirs}, this is job {ours}: package or remove that \
         work first"
    )]
    OtherJob { agent: PathBuf, theirs: String, ours: String },
    #[error(
        "{agent} contains work of job {job_id} on a different image: package or remove that work \
         first"
    )]
    OtherImage { agent: PathBuf, job_id: String },
    #[error("an earlier run created {root} as {kind:?}: use --workspace auto to continue with it")]
    OtherKind { root: PathBuf, kind: Kind },
    #[error("{root} is not empty and was not created by this program: move it away or remove it")]
    RootNotEmpty { root: PathBuf },
    #[error("{parent} contains no finished image root to continue with")]
    NothingToReopen { parent: PathBuf },
    #[error("{path} of an earlier run is still in use: {users}; end these processes and try again")]
    StillInUse { path: PathBuf, users: String },
    #[error("cannot unmount {path}, in use by: {users}")]
    Busy { path: PathBuf, users: String, source: mount::Error },
    #[error("cannot unmount or list mounts")]
    Mount(#[from] mount::Error),
    #[error("cannot use a loop device")]
    Loop(#[from] loopdev::Error),
    #[error("cannot mount the image {image} as squashfs")]
    MountImage { image: PathBuf, source: mount::Error },
    #[error("cannot mount an overlay on the image, with the upper layer in {upper} ({filesystem})")]
    MountOverlay { upper: PathBuf, filesystem: String, source: mount::Error },
    #[error(
        "an overlay in {upper} ({filesystem}) would break hard links when a file is changed \
         through one of its names (no index)"
    )]
    BreaksLinks { upper: PathBuf, filesystem: String },
    #[error(
        "not enough space in {path}: {} free, at least {} needed ({reason})",
        human(*.free),
        human(*.needed)
    )]
    NoRoom { path: PathBuf, free: u64, needed: u64, reason: &'static str },
    #[error("not enough inodes in {path}: {free} free, {needed} needed to unpack the image")]
    NoInodes { path: PathBuf, free: u64, needed: u64 },
    #[error(
        "{path} ({filesystem}) cannot keep the extended attributes of the image: it supports none \
         of user, security and trusted"
    )]
    NoXattrs { path: PathBuf, filesystem: String },
    #[error("cannot unpack the image")]
    Unpack(#[source] external::Error),
    #[error("{path} has something mounted in it ({}), refusing to remove it", .mount.display())]
    MountedInside { path: PathBuf, mount: PathBuf },
}

impl Error {
    /// True if an overlay cannot be had here but an unpacked image may.
    pub(super) fn is_cured_by_unpacking(&self) -> bool {
        matches!(
            self,
            Self::Loop(_)
                | Self::MountImage { .. }
                | Self::MountOverlay { .. }
                | Self::BreaksLinks { .. }
        )
    }

    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { what, path: path.into(), source }
    }
}
