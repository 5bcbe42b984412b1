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
    #[error("{parent} is in use by another ims-job-agent (job {job_id}): end that one first")]
    InUse { parent: PathBuf, job_id: String, source: Errno },
    #[error(
        "processes of an earlier run's sessions in {parent} cannot be ended, so the image may still \
         change: {processes}"
    )]
    Survivors { parent: PathBuf, processes: String },
    #[error("{image} is no squashfs image")]
    NotSquashfs { image: PathBuf, source: superblock::Error },
    #[error(
        "{image} is cut off: it has {} of the {} that its superblock names",
        human(*.size),
        human(*.expected)
    )]
    Truncated { image: PathBuf, size: u64, expected: u64 },
    #[error("{path} cannot be read; remove it, with the work it stands for, to start over")]
    StateUnreadable { path: PathBuf, source: serde_json::Error },
    #[error("{path} was written by another version of this program (format {version})")]
    StateVersion { path: PathBuf, version: u32 },
    #[error(
        "{agent} holds the work of job {theirs}, this is job {ours}: package it or remove it first"
    )]
    OtherJob { agent: PathBuf, theirs: String, ours: String },
    #[error(
        "{agent} holds work of job {job_id} on another image than the one now given: package it or \
         remove it first"
    )]
    OtherImage { agent: PathBuf, job_id: String },
    #[error("{root} was made by an earlier run as {kind:?}: use --workspace auto to go on with it")]
    OtherKind { root: PathBuf, kind: Kind },
    #[error("{root} is not empty and not the work of this program: move it away or remove it")]
    RootNotEmpty { root: PathBuf },
    #[error("{parent} holds no finished image root to go on with")]
    NothingToReopen { parent: PathBuf },
    #[error("{path} of an earlier run is still in use: {users}; end that, and try again")]
    StillInUse { path: PathBuf, users: String },
    #[error("cannot unmount {path}, in use by: {users}")]
    Busy { path: PathBuf, users: String, source: mount::Error },
    #[error("cannot unmount or list mounts")]
    Mount(#[from] mount::Error),
    #[error("cannot use a loop device")]
    Loop(#[from] loopdev::Error),
    #[error("cannot mount the image {image} as squashfs")]
    MountImage { image: PathBuf, source: mount::Error },
    #[error("cannot put an overlay on the image, its changes in {upper} ({filesystem})")]
    MountOverlay { upper: PathBuf, filesystem: String, source: mount::Error },
    #[error(
        "an overlay in {upper} ({filesystem}) would break hard links when one of the names is \
         changed (no index)"
    )]
    BreaksLinks { upper: PathBuf, filesystem: String },
    #[error(
        "not enough room in {path}: {} free, at least {} needed ({reason})",
        human(*.free),
        human(*.needed)
    )]
    NoRoom { path: PathBuf, free: u64, needed: u64, reason: &'static str },
    #[error("not enough inodes in {path}: {free} free, {needed} needed to unpack the image")]
    NoInodes { path: PathBuf, free: u64, needed: u64 },
    #[error(
        "the image has extended attributes, which cannot be kept in {path} ({filesystem}): none of \
         user, security and trusted can be set there"
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
