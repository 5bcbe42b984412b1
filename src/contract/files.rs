//! Names of the files by which the job, its users and the pod talk (contract section 3).

/// Made by the user: package the image. In `/mnt/image`, or in `/tmp` of the image root.
pub const COMPLETE: &str = "complete";
/// Made by the user: give up.
pub const FAILED: &str = "failed";
/// The user's public keys, mounted by the pod.
pub const AUTHORIZED_KEYS: &str = "/etc/cray/authorized_keys";
