//! The environment of a job, as an IMS pod would have it (contract section 2).

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use url::Url;
use uuid::Uuid;

use crate::contract::vars;
use crate::net::Trust;
use crate::standalone::Keys;
use crate::standalone::records::Job;

/// Programs are looked for where a login of root would.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What all jobs share.
#[derive(Debug, Clone)]
pub struct Services {
    /// Base URL of the IMS API, as seen from this machine.
    pub ims: Url,
    pub token: Option<SecretString>,
    pub s3: Url,
    pub keys: Keys,
    pub trust: Trust,
    /// The site's CA certificate, which jobs put into images.
    pub ca_cert: Option<PathBuf>,
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
}

/// Names and values; nothing else is in the child's environment.
pub fn variables(job: &Job, services: &Services, download: &Download) -> Vec<(String, String)> {
    let text = |flag: bool| if flag { "True" } else { "False" }.to_owned();
    let jail = job.ssh_containers.first().is_some_and(|container| container.jail);
    let variables = vec![
        (vars::IMS_ACTION.name, job.job_type.clone()),
        (vars::IMS_JOB_ID.name, job.id.to_string()),
        (vars::DOWNLOAD_URL.name, download.url.as_ref().map(Url::to_string).unwrap_or_default()),
        (vars::DOWNLOAD_MD5SUM.name, download.md5.clone()),
        (vars::IMAGE_ROOT_PARENT.name, super::IMAGE_ROOT_PARENT.to_owned()),
        (vars::IMAGE_ROOT_ARCHIVE_NAME.name, job.image_root_archive_name.clone()),
        (vars::KERNEL_FILENAME.name, job.kernel_file_name.clone()),
        (vars::INITRD_FILENAME.name, job.initrd_file_name.clone()),
        (vars::KERNEL_PARAMETERS_FILENAME.name, job.kernel_parameters_file_name.clone()),
        (vars::BUILD_ARCH.name, job.arch.to_string()),
        (vars::SSH_JAIL.name, text(jail)),
        (vars::JOB_ENABLE_DKMS.name, text(job.require_dkms)),
        (vars::ENABLE_DEBUG.name, text(job.enable_debug)),
        (vars::REMOTE_BUILD_NODE.name, job.remote_build_node.clone().unwrap_or_default()),
    ];
    let named = variables.into_iter().map(|(name, value)| (name.to_owned(), value));
    named.chain(connection(services)).collect()
}

/// What every child of ours has: where programs, IMS and the store are.
pub fn connection(services: &Services) -> Vec<(String, String)> {
    let trust = match &services.trust {
        Trust::System => "True".to_owned(),
        Trust::Insecure => "False".to_owned(),
        Trust::CaFile(path) => path.display().to_string(),
    };
    let mut variables = vec![
        ("PATH", PATH.to_owned()),
        ("HOME", "/root".to_owned()),
        (vars::IMS_URL.name, services.ims.as_str().trim_end_matches('/').to_owned()),
        (vars::S3_ENDPOINT.name, services.s3.as_str().trim_end_matches('/').to_owned()),
        (vars::S3_ACCESS_KEY.name, services.keys.access.clone()),
        (vars::S3_SECRET_KEY.name, services.keys.secret.expose_secret().to_owned()),
        (vars::S3_BUCKET.name, "boot-images".to_owned()),
        (vars::S3_SSL_VALIDATE.name, trust),
    ];
    if let Some(path) = &services.ca_cert {
        variables.push((vars::CA_CERT.name, path.display().to_string()));
    }
    if let Some(token) = &services.token {
        let endpoint = format!("{}/oauth/token", services.ims.as_str().trim_end_matches('/'));
        variables.extend([
            (vars::OAUTH_CLIENT_ID.name, "ims-job-agent".to_owned()),
            (vars::OAUTH_CLIENT_SECRET.name, token.expose_secret().to_owned()),
            (vars::OAUTH_CLIENT_ENDPOINT.name, endpoint),
        ]);
    }
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Marks every process of a job: sessions have it too (contract section 2).
pub fn marker(job: Uuid) -> String {
    format!("{}={job}", vars::IMS_JOB_ID.name)
}
