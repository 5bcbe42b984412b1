//! The environment of a job as one checked value.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::defaults;
use super::vars::{self, Var};
use super::{Safekeeping, values};
use crate::telemetry::logs::Level;
use ims_client::Arch;
use net::Trust;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Customize,
    Create,
}

/// The environment of a job (contract section 2).
#[derive(Debug, Clone)]
pub struct JobContract {
    pub action: Action,
    pub job_id: Uuid,
    pub ims: ImsAccess,
    pub s3: S3Access,
    pub download: Download,
    /// `IMAGE_ROOT_PARENT`: the directory that belongs to the job.
    pub image_root_parent: PathBuf,
    pub recipe: Recipe,
    pub image: ImageNames,
    pub session: Session,
    /// `REMOTE_HEARTBEAT_TIMEOUT_COUNT`
    pub remote_heartbeats: u32,
    pub safekeeping: Safekeeping,
    /// `ENABLE_DEBUG`
    pub debug: bool,
    pub log_level: Level,
}

/// How IMS is reached.
#[derive(Debug, Clone)]
pub struct ImsAccess {
    pub url: Url,
    pub ca_cert: PathBuf,
    /// `CA_CERT` was set, so a missing file is a fault and not a machine without a gateway.
    pub ca_cert_is_explicit: bool,
    pub oauth_dir: PathBuf,
    pub oauth_client_id: Option<String>,
    pub oauth_client_secret: Option<SecretString>,
    pub oauth_endpoint: Option<Url>,
    /// File with a token that is sent as it is; instead of OAuth. Commands outside a job have it.
    pub token_file: Option<PathBuf>,
    /// Silence after which a request has failed.
    pub timeout: Duration,
}

/// How the object store is reached.
#[derive(Debug, Clone)]
pub struct S3Access {
    pub endpoint: Url,
    pub access_key: String,
    pub secret_key: SecretString,
    pub bucket: String,
    pub trust: Trust,
    /// `S3_CREDENTIALS_DIR`: files in it take precedence over what the variables say.
    pub credentials_dir: PathBuf,
}

/// What is fetched at the start.
#[derive(Debug, Clone, Default)]
pub struct Download {
    /// A presigned URL; without one the image is looked up from the job record.
    pub url: Option<Url>,
    /// Expected md5 in lower-case hex.
    pub md5: Option<String>,
}

/// Settings of create jobs only.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// `RECIPE_ROOT_PARENT`: where the recipe is unpacked.
    pub root: PathBuf,
    /// `TIMEOUT`: how long repositories are waited for.
    pub repository_timeout: Duration,
}

/// Names in and of the resulting image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageNames {
    /// `IMAGE_ROOT_ARCHIVE_NAME`: the name of the image record.
    pub name: String,
    pub kernel: String,
    pub initrd: String,
    pub kernel_parameters: String,
    pub arch: Arch,
}

/// The settings of sessions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Session {
    pub jail: bool,
    pub dkms: bool,
    pub customization_script: Option<PathBuf>,
    /// Where sshd would listen by `SSHD_OPTIONS`.
    pub sshd_listen: Option<SocketAddr>,
    pub remote_build_node: String,
}

/// Everything that is wrong with an environment, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(Vec<String>);

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the environment of the job is not valid:")?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl JobContract {
    /// Reads the contract from variables, as `std::env::var` would give them.
    ///
    /// An empty value counts as unset, as IMS's pod templates leave it. All faults are reported at
    /// once; values of secrets are never part of a fault.
    pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        let contract = Self::read(&mut reader);
        reader.finish(contract)
    }

    /// `None` when a required value is missing or wrong; the reader then holds the reason.
    fn read<L: Fn(&str) -> Option<String>>(reader: &mut Reader<L>) -> Option<Self> {
        let action = reader.action();
        let job_id = reader.job_id();
        let ims = reader.ims();
        let s3 = reader.s3();
        let image = reader.image();
        let download = Download {
            url: reader.optional(&vars::DOWNLOAD_URL, values::http_url),
            md5: reader.optional(&vars::DOWNLOAD_MD5SUM, values::md5_hex),
        };
        let image_root_parent = reader.image_root_parent();
        let recipe = reader.recipe(&image_root_parent);
        let session = reader.session();
        let heartbeats = reader.optional(&vars::REMOTE_HEARTBEAT_TIMEOUT_COUNT, values::count);
        let safekeeping = reader.safekeeping();
        let debug = reader.flag(&vars::ENABLE_DEBUG);
        let log_level = reader.log_level();
        Some(Self {
            action: action?,
            job_id: job_id?,
            ims: ims?,
            s3: s3?,
            download,
            image_root_parent,
            recipe,
            image: image?,
            session,
            remote_heartbeats: heartbeats.unwrap_or(12),
            safekeeping,
            debug,
            log_level,
        })
    }
}

impl ImsAccess {
    /// The part of the contract that says how IMS is reached, for commands outside a job.
    pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        reader.ims().ok_or(Faults(reader.faults))
    }
}

/// Where to report that an environment is wrong: the record of the job, and its IMS.
/// `None` where an environment does not even say that.
pub fn record(lookup: impl Fn(&str) -> Option<String>) -> Option<(Uuid, ImsAccess)> {
    let mut reader = Reader::new(lookup);
    reader.job_id().zip(reader.ims())
}

impl S3Access {
    /// The part of the contract that says how the store is reached, for commands outside a job.
    pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        reader.s3().ok_or(Faults(reader.faults))
    }
}

/// Reads variables one by one and collects what is wrong with them.
pub(super) struct Reader<L> {
    lookup: L,
    faults: Vec<String>,
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    pub(super) fn new(lookup: L) -> Self {
        Self { lookup, faults: Vec::new() }
    }

    /// What was read, unless something is wrong.
    pub(super) fn finish<T>(self, read: Option<T>) -> Result<T, Faults> {
        read.filter(|_| self.faults.is_empty()).ok_or(Faults(self.faults))
    }

    pub(super) fn action(&mut self) -> Option<Action> {
        self.required(&vars::IMS_ACTION, |text| match text {
            "customize" => Ok(Action::Customize),
            "create" => Ok(Action::Create),
            _ => Err("is neither customize nor create".into()),
        })
    }

    pub(super) fn job_id(&mut self) -> Option<Uuid> {
        self.required(&vars::IMS_JOB_ID, |text| {
            Uuid::parse_str(text).map_err(|_| "is not a UUID".into())
        })
    }

    pub(super) fn image_root_parent(&mut self) -> PathBuf {
        self.optional(&vars::IMAGE_ROOT_PARENT, absolute)
            .unwrap_or(defaults::IMAGE_ROOT_PARENT.into())
    }

    pub(super) fn text(&self, var: &Var) -> Option<String> {
        (self.lookup)(var.name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    pub(super) fn optional<T>(
        &mut self,
        var: &Var,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(var)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(fault) => {
                // The query of a presigned URL is a secret.
                let shown = text.split('?').next().unwrap_or_default();
                self.faults.push(format!("{}={shown:?} {fault}", var.name));
                None
            }
        }
    }

    fn required<T>(
        &mut self,
        var: &Var,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if self.text(var).is_none() {
            self.faults.push(format!("{} is not set: {}", var.name, var.meaning));
        }
        self.optional(var, parse)
    }

    /// An unknown level is not a fault, because it does not affect the job. `cli` warns.
    pub(super) fn log_level(&self) -> Level {
        let text = self.text(&vars::LOG_LEVEL);
        text.and_then(|text| values::log_level(&text).ok()).unwrap_or_default()
    }

    pub(super) fn flag(&mut self, var: &Var) -> bool {
        self.optional(var, values::boolean).unwrap_or(false)
    }

    /// `None` with a fault recorded when a value is wrong.
    pub(super) fn ims(&mut self) -> Option<ImsAccess> {
        let faults_before = self.faults.len();
        let url = self.optional(&vars::IMS_URL, values::http_url);
        let ca_cert = self.optional(&vars::CA_CERT, absolute);
        let access = ImsAccess {
            url: match url {
                Some(url) => url,
                None => self.gateway_url()?,
            },
            ca_cert_is_explicit: ca_cert.is_some(),
            ca_cert: ca_cert.unwrap_or("/etc/cray/ca/certificate_authority.crt".into()),
            oauth_dir: self
                .optional(&vars::OAUTH_CONFIG_DIR, absolute)
                .unwrap_or("/etc/admin-client-auth".into()),
            oauth_client_id: self.text(&vars::OAUTH_CLIENT_ID),
            oauth_client_secret: self.text(&vars::OAUTH_CLIENT_SECRET).map(SecretString::from),
            oauth_endpoint: self.optional(&vars::OAUTH_CLIENT_ENDPOINT, values::http_url),
            token_file: None,
            timeout: self
                .optional(&vars::IMS_PYTHON_HELPER_TIMEOUT, values::seconds)
                .unwrap_or(Duration::from_secs(720)),
        };
        (self.faults.len() == faults_before).then_some(access)
    }

    fn gateway_url(&mut self) -> Option<Url> {
        let host = self
            .text(&vars::API_GATEWAY_HOSTNAME)
            .unwrap_or_else(|| "api-gw-service-nmn.local".into());
        match values::http_url(&format!("https://{host}/apis/ims")) {
            Ok(url) => Some(url),
            Err(_) => {
                self.faults.push(format!("API_GATEWAY_HOSTNAME={host:?} is not a host name"));
                None
            }
        }
    }

    fn s3(&mut self) -> Option<S3Access> {
        let endpoint_var = match self.text(&vars::S3_ENDPOINT) {
            None if self.text(&vars::S3_HOST).is_some() => &vars::S3_HOST,
            _ => &vars::S3_ENDPOINT,
        };
        let endpoint = self.required(endpoint_var, values::http_url);
        let access_key = self.required(&vars::S3_ACCESS_KEY, |text| Ok(text.to_owned()));
        let secret_key = self.required(&vars::S3_SECRET_KEY, |text| Ok(SecretString::from(text)));
        let bucket = self.text(&vars::S3_BUCKET).unwrap_or_else(|| "boot-images".into());
        let credentials_dir = self.optional(&vars::S3_CREDENTIALS_DIR, absolute);
        let faults_before = self.faults.len();
        let trust = self.s3_trust().unwrap_or_default();
        let trust = (self.faults.len() == faults_before).then_some(trust);
        Some(S3Access {
            endpoint: endpoint?,
            access_key: access_key?,
            secret_key: secret_key?,
            bucket,
            trust: trust?,
            credentials_dir: credentials_dir.unwrap_or(super::files::S3_CREDENTIALS.into()),
        })
    }

    /// `None` if it is not set.
    pub(super) fn s3_trust(&mut self) -> Option<Trust> {
        let var = match self.text(&vars::S3_SSL_VALIDATE) {
            None => &vars::S3_SSL_VERIFY,
            Some(_) => &vars::S3_SSL_VALIDATE,
        };
        self.optional(var, values::s3_trust)
    }

    pub(super) fn safekeeping(&mut self) -> Safekeeping {
        let default = Safekeeping::default();
        let mut time = |var: &Var, default| self.optional(var, values::duration).unwrap_or(default);
        Safekeeping {
            hold: time(&vars::IMS_JOB_HOLD, default.hold),
            grace: time(&vars::IMS_JOB_GRACE, default.grace),
            unattended: time(&vars::IMS_JOB_GRACE_UNATTENDED, default.unattended),
            rescue: self.optional(&vars::IMS_JOB_RESCUE, str::parse),
        }
    }

    fn image(&mut self) -> Option<ImageNames> {
        let name = self.required(&vars::IMAGE_ROOT_ARCHIVE_NAME, |text| Ok(text.to_owned()));
        let arch = self.arch();
        let kernel = self.optional(&vars::KERNEL_FILENAME, values::boot_file);
        let initrd = self.optional(&vars::INITRD_FILENAME, values::boot_file);
        let parameters = self.optional(&vars::KERNEL_PARAMETERS_FILENAME, values::boot_file);
        Some(ImageNames {
            name: name?,
            kernel: defaults::kernel_name(arch, kernel),
            initrd: initrd.unwrap_or_else(|| defaults::INITRD.into()),
            kernel_parameters: parameters.unwrap_or_else(|| defaults::KERNEL_PARAMETERS.into()),
            arch,
        })
    }

    pub(super) fn arch(&mut self) -> Arch {
        self.optional(&vars::BUILD_ARCH, |text| match text {
            "x86_64" => Ok(Arch::X86_64),
            "aarch64" => Ok(Arch::Aarch64),
            _ => Err("is neither x86_64 nor aarch64".into()),
        })
        .unwrap_or_default()
    }

    pub(super) fn recipe(&mut self, image_root_parent: &Path) -> Recipe {
        let root = self.optional(&vars::RECIPE_ROOT_PARENT, absolute);
        let timeout = self.optional(&vars::TIMEOUT, values::seconds);
        Recipe {
            root: root.unwrap_or_else(|| image_root_parent.join("recipe")),
            repository_timeout: timeout.unwrap_or(Duration::from_secs(500)),
        }
    }

    pub(super) fn session(&mut self) -> Session {
        Session {
            jail: self.flag(&vars::SSH_JAIL),
            dkms: self.flag(&vars::JOB_ENABLE_DKMS),
            sshd_listen: self.optional(&vars::SSHD_OPTIONS, values::sshd_listen),
            customization_script: self.optional(&vars::CUSTOMIZATION_SCRIPT, absolute),
            remote_build_node: self.text(&vars::REMOTE_BUILD_NODE).unwrap_or_default(),
        }
    }
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') { Ok(text.into()) } else { Err("is not an absolute path".into()) }
}
