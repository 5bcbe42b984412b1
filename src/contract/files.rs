//! Names of the files by which the job, its users and the containers of a pod talk
//! (contract section 3), and of the directories that they lie in.

use std::path::{Path, PathBuf};

/// Made by the user: package the image. In `/mnt/image`, or in `/tmp` of the image root.
pub const COMPLETE: &str = "complete";
/// Made by the user: give up.
pub const FAILED: &str = "failed";
/// The image root below `IMAGE_ROOT_PARENT` in a customize job.
pub const IMAGE_ROOT: &str = "image-root";
/// The agent's own directory below `IMAGE_ROOT_PARENT`, mode 0700.
pub const AGENT_DIR: &str = ".ims-job-agent";
/// The user's public keys, mounted by the pod.
pub const AUTHORIZED_KEYS: &str = "/etc/cray/authorized_keys";

/// The image root of a customize job.
pub fn image_root(image_root_parent: &Path) -> PathBuf {
    image_root_parent.join(IMAGE_ROOT)
}

/// The agent's own directory of a job.
pub fn agent_dir(image_root_parent: &Path) -> PathBuf {
    image_root_parent.join(AGENT_DIR)
}
