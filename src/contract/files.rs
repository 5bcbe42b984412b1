//! Names of the files through which the job, its users and the pod communicate (contract section
//! 3).

/// Made by the user: package the image. In `/mnt/image`, or in `/tmp` of the image root.
pub const COMPLETE: &str = "complete";
/// Made by the user: give up.
pub const FAILED: &str = "failed";
/// Made by the build step of a create job: the build failed.
pub const BUILD_FAILED: &str = "build_failed";
/// Made by the agent of a pod in which another container serves the sessions: it may begin.
pub const READY: &str = "ready";
/// Made by the container that serves the sessions: all of them have ended.
pub const EXITING: &str = "exiting";
/// Made by either container: the pod cannot do its job any more. What is in it says why.
pub const POD_ERROR: &str = "pod_error";
/// Where the agent leaves the user's public keys for the container that serves the sessions.
pub const SHARED_AUTHORIZED_KEYS: &str = "/etc/cray/ims/authorized_keys";
/// The user's public keys, mounted by the pod.
pub const AUTHORIZED_KEYS: &str = "/etc/cray/authorized_keys";
/// The keys for root on a remote build node, mounted by the pod.
pub const REMOTE_KEYS: &str = "/etc/cray/remote-keys";
/// The keys of the object store, mounted by the pod.
pub const S3_CREDENTIALS: &str = "/etc/s3-credentials";
/// The values of a recipe's templates, mounted by the pod.
pub const TEMPLATE_DICTIONARY: &str = "/etc/cray/template_dictionary";
/// The public keys with which packages of a recipe are signed, mounted by the pod.
pub const SIGNING_KEYS: &str = "/etc/cray/signing-keys";
/// Where the package with the site's CA certificate is written.
pub const CA_RPM: &str = "/mnt/ca-rpm";
