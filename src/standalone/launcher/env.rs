//! The environment of a job, as an IMS pod would have it (contract section 2).

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::ExposeSecret;
use url::Url;
use uuid::Uuid;

use crate::contract::defaults::{self, boolean_text};
use crate::contract::vars;
use crate::jail::Rights;
use crate::standalone::Keys;
use crate::standalone::grants::{Credentials, Grant, Grants, Reads};
use crate::standalone::records::Job;
use net::Trust;
use s3_client::Object;

/// Programs are looked for where a login of root would.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What all jobs share.
#[derive(Debug, Clone)]
pub struct Services {
    /// Base URL of the IMS API, as seen from this machine.
    pub ims: Url,
    /// What each may do: a token of its own, and keys of its own in our own store.
    pub grants: Grants,
    pub s3: Url,
    /// The keys of a store that is not ours.
    pub site_keys: Option<Keys>,
    pub trust: Trust,
    /// The site's CA certificate, which jobs put into images.
    pub ca_cert: Option<PathBuf>,
    /// Whether sessions of jobs that ask for DKMS get what it takes.
    pub allow_dkms: bool,
    /// The data directory, and secrets elsewhere: no job sees them.
    pub data: PathBuf,
    pub secret_files: Vec<PathBuf>,
    /// What sessions may do.
    pub sessions: Rights,
}

impl Services {
    /// The rights that a job had before standalone was started again; or new ones.
    pub async fn give_again(
        &self,
        id: Uuid,
        job: Option<Uuid>,
        reads: Reads,
    ) -> std::io::Result<Credentials> {
        match self.grants.with(id, Grant::credentials) {
            Some(credentials) => Ok(self.of_site(credentials)),
            None => self.give(id, job, reads).await,
        }
    }

    /// Gives a job its rights, and what it authenticates with. `id` is that of the job; what has no
    /// record in IMS has an id of its own.
    pub async fn give(
        &self,
        id: Uuid,
        job: Option<Uuid>,
        reads: Reads,
    ) -> std::io::Result<Credentials> {
        self.grants.give(id, job, reads).await.map(|credentials| self.of_site(credentials))
    }

    fn of_site(&self, credentials: Credentials) -> Credentials {
        match &self.site_keys {
            Some(keys) => Credentials { keys: keys.clone(), ..credentials },
            None => credentials,
        }
    }
}

/// What a job downloads at its start.
#[derive(Debug, Clone, Default)]
pub struct Download {
    /// Without one the agent finds it by the job's record.
    pub url: Option<Url>,
    /// Hex; empty: not checked.
    pub md5: String,
    /// What the templates of a recipe are filled in with.
    pub values: BTreeMap<String, String>,
    /// The objects of what it works on.
    pub objects: Vec<Object>,
}

impl Download {
    /// What the job has to read.
    pub fn reads(&self, job: &Job) -> Reads {
        let (image, recipe) = match job.job_type.as_str() {
            "create" => (None, Some(job.artifact_id)),
            _ => (Some(job.artifact_id), None),
        };
        let objects = self.objects.iter().map(Object::to_string).collect();
        Reads { image, recipe, public_key: Some(job.public_key_id), objects }
    }
}

/// Names and values; nothing else is in the child's environment.
pub fn variables(
    job: &Job,
    services: &Services,
    download: &Download,
    credentials: &Credentials,
) -> Vec<(String, String)> {
    let text = |flag| boolean_text(flag).to_owned();
    let jail = job.ssh_containers.first().is_some_and(|container| container.jail);
    let variables = vec![
        (vars::IMS_ACTION.name, job.job_type.clone()),
        (vars::IMS_JOB_ID.name, job.id.to_string()),
        (vars::DOWNLOAD_URL.name, download.url.as_ref().map(Url::to_string).unwrap_or_default()),
        (vars::DOWNLOAD_MD5SUM.name, download.md5.clone()),
        (vars::IMAGE_ROOT_PARENT.name, defaults::IMAGE_ROOT_PARENT.to_owned()),
        (vars::IMAGE_ROOT_ARCHIVE_NAME.name, job.image_root_archive_name.clone()),
        (vars::KERNEL_FILENAME.name, job.kernel_file_name.clone()),
        (vars::INITRD_FILENAME.name, job.initrd_file_name.clone()),
        (vars::KERNEL_PARAMETERS_FILENAME.name, job.kernel_parameters_file_name.clone()),
        (vars::BUILD_ARCH.name, job.arch.to_string()),
        (vars::SSH_JAIL.name, text(jail)),
        (vars::JOB_ENABLE_DKMS.name, text(job.require_dkms && services.allow_dkms)),
        (vars::ENABLE_DEBUG.name, text(job.enable_debug)),
        (vars::REMOTE_BUILD_NODE.name, job.remote_build_node.clone().unwrap_or_default()),
    ];
    let named = variables.into_iter().map(|(name, value)| (name.to_owned(), value));
    named.chain(connection(services, credentials)).collect()
}

/// What every child of ours has: where programs, IMS and the store are.
pub fn connection(services: &Services, credentials: &Credentials) -> Vec<(String, String)> {
    let trust = match &services.trust {
        Trust::System => boolean_text(true).to_owned(),
        Trust::Insecure => boolean_text(false).to_owned(),
        Trust::CaFile(path) => path.display().to_string(),
    };
    let endpoint = format!("{}/oauth/token", services.ims.as_str().trim_end_matches('/'));
    let mut variables = vec![
        ("PATH", PATH.to_owned()),
        ("HOME", "/root".to_owned()),
        (vars::IMS_URL.name, services.ims.as_str().trim_end_matches('/').to_owned()),
        (vars::S3_ENDPOINT.name, services.s3.as_str().trim_end_matches('/').to_owned()),
        (vars::S3_ACCESS_KEY.name, credentials.keys.access.clone()),
        (vars::S3_SECRET_KEY.name, credentials.keys.secret.expose_secret().to_owned()),
        (vars::S3_BUCKET.name, "boot-images".to_owned()),
        (vars::S3_SSL_VALIDATE.name, trust),
        (vars::OAUTH_CLIENT_ID.name, "ims-job-agent".to_owned()),
        (vars::OAUTH_CLIENT_SECRET.name, credentials.token.expose_secret().to_owned()),
        (vars::OAUTH_CLIENT_ENDPOINT.name, endpoint),
    ];
    if let Some(path) = &services.ca_cert {
        variables.push((vars::CA_CERT.name, path.display().to_string()));
    }
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Marks every process of a job: sessions have it too (contract section 2).
pub fn marker(job: Uuid) -> String {
    format!("{}={job}", vars::IMS_JOB_ID.name)
}
