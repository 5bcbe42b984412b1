//! Every environment variable that the agent reads, with its default and its meaning.
//!
//! The table in docs/contract.md is generated from [`ALL`] (`ims-job-agent contract`).

/// One variable of the job's environment.
#[derive(Debug)]
pub struct Var {
    pub name: &'static str,
    /// What an unset or empty variable means, in words.
    pub default: &'static str,
    pub meaning: &'static str,
}

macro_rules! vars {
    ($($name:ident: $default:literal, $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $name: Var =
                Var { name: stringify!($name), default: $default, meaning: $meaning };
        )*
        /// Every variable, in the order of the documentation.
        pub const ALL: &[&Var] = &[$(&$name),*];
    };
}

vars! {
    IMS_ACTION: "required", "`customize` or `create`";
    IMS_JOB_ID: "required", "UUID of the job record";
    IMS_URL: "`https://$API_GATEWAY_HOSTNAME/apis/ims`", "base URL of IMS";
    API_GATEWAY_HOSTNAME: "`api-gw-service-nmn.local`", "host of the API gateway, used when IMS_URL is not set";
    CA_CERT: "`/etc/cray/ca/certificate_authority.crt`", "PEM file that signs the gateway; its directory is copied into the image";
    OAUTH_CONFIG_DIR: "`/etc/admin-client-auth`", "directory with the files `client-id`, `client-secret`, `endpoint`";
    OAUTH_CLIENT_ID: "file `client-id`", "overrides the file of OAUTH_CONFIG_DIR";
    OAUTH_CLIENT_SECRET: "file `client-secret`", "overrides the file of OAUTH_CONFIG_DIR";
    OAUTH_CLIENT_ENDPOINT: "file `endpoint`", "overrides the file of OAUTH_CONFIG_DIR";
    DOWNLOAD_URL: "looked up from the job record", "presigned GET URL of the root filesystem, or of the recipe's archive";
    DOWNLOAD_MD5SUM: "not checked", "md5 (32 hex digits) of what is downloaded";
    IMAGE_ROOT_PARENT: "`/mnt/image`", "directory of the job; the image root is `image-root` (customize) or `build/image-root` (create) in it";
    RECIPE_ROOT_PARENT: "`recipe` in IMAGE_ROOT_PARENT", "directory into which the recipe is unpacked (create)";
    TIMEOUT: "`500`", "seconds to wait until all repositories of the recipe answer (create)";
    IMAGE_ROOT_ARCHIVE_NAME: "required", "name of the resulting image record";
    KERNEL_FILENAME: "`vmlinuz`, on aarch64 `Image`", "kernel in `/boot` of the image root, with or without a leading slash; `vmlinuz` on aarch64 means `Image`";
    INITRD_FILENAME: "`initrd`", "initrd in `/boot` of the image root";
    KERNEL_PARAMETERS_FILENAME: "`kernel-parameters`", "kernel parameters in `/boot`; uploaded when the file exists";
    BUILD_ARCH: "`x86_64`", "`x86_64` or `aarch64`; the image record's `arch`";
    SSH_JAIL: "`False`", "`True`: sessions start inside the image root";
    JOB_ENABLE_DKMS: "`False`", "`True`: kernel modules are built in the image; the pod is privileged";
    ENABLE_DEBUG: "`False`", "`True`: a failed create opens an SSH shell on the build root";
    S3_ENDPOINT: "`$S3_HOST`", "URL of the object store";
    S3_HOST: "required when S3_ENDPOINT is not set", "the older name of S3_ENDPOINT";
    S3_ACCESS_KEY: "required", "access key of the object store";
    S3_SECRET_KEY: "required", "secret key of the object store";
    S3_BUCKET: "`boot-images`", "bucket of the artifacts";
    S3_SSL_VALIDATE: "`$S3_SSL_VERIFY`", "`False`, `off` or `0`: any certificate; `True`, `on` or `1`: the system's CAs; or the path of a CA file";
    S3_SSL_VERIFY: "`True`", "the older name of S3_SSL_VALIDATE";
    S3_CREDENTIALS_DIR: "`/etc/s3-credentials`", "directory with the files `access_key`, `secret_key` and `s3_endpoint`, each optional; a file that is there takes precedence over its variable and is read again at every try to publish";
    IMS_JOB_HOLD: "`24h`", "how long a job whose image IMS or the store refuses is held and tried again before it ends with `error` (`90m`, `2 days`; `0`: not at all)";
    IMS_JOB_GRACE: "`30m`", "how long users have to repair an image that cannot be packaged (no kernel, no room) before the job ends with `error`";
    IMS_JOB_GRACE_UNATTENDED: "`2m`", "the same where no person is logged in: CFS, Ansible, a script";
    IMS_JOB_RESCUE: "none", "where the work of a job that fails is saved, in a directory named after the job: a directory on another volume, or `s3://BUCKET/PREFIX`";
    IMS_PYTHON_HELPER_TIMEOUT: "`720`", "seconds for which IMS and the store are waited for where the user's work depends on them; one request without an answer is tried again after 60 at most";
    LOG_LEVEL: "`INFO`", "`DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL` (as `ERROR`); anything else is `INFO`, with a warning";
    CUSTOMIZATION_SCRIPT: "none", "script in the container that is run once the shell of a customize job is up; it may touch `complete` itself";
    SSHD_OPTIONS: "none", "options that a pod template gives to sshd; `-p`, `-o Port=` and `-o ListenAddress=` say where the container of the sessions listens, the rest is ignored";
    REMOTE_BUILD_NODE: "none", "`HOST` or `HOST:PORT` of a node that does the job's work; root there is reached over SSH with the keys of `/etc/cray/remote-keys`";
    REMOTE_HEARTBEAT_TIMEOUT_COUNT: "`12`", "heartbeats, one each 5 s, that may be missing before agent and remote build node give each other up";
}

/// Set inside every user session (contract section 2).
pub mod session {
    pub const IMS_JOB_ID: &str = "IMS_JOB_ID";
    pub const IMS_ARCH: &str = "IMS_ARCH";
    pub const IMS_DKMS_ENABLED: &str = "IMS_DKMS_ENABLED";
    pub const REMOTE_BUILD_NODE: &str = "REMOTE_BUILD_NODE";

    pub const ALL: [&str; 4] = [IMS_JOB_ID, IMS_ARCH, IMS_DKMS_ENABLED, REMOTE_BUILD_NODE];
}
