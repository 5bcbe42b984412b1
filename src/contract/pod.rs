//! The environment of the containers of a pod that do one part of a job each.
//!
//! They get fewer variables than the container of a whole job: a part requires only the variables
//! that it uses.

use std::path::PathBuf;

use uuid::Uuid;

use super::job::Reader;
use super::{Action, Faults, ImsAccess, Recipe, Session, values, vars};
use crate::telemetry::logs::Level;
use ims_client::Arch;
use net::Trust;

/// The container that serves the sessions, and neither IMS nor the store.
#[derive(Debug, Clone)]
pub struct SessionContract {
    pub action: Action,
    pub job_id: Uuid,
    pub image_root_parent: PathBuf,
    pub arch: Arch,
    pub session: Session,
    /// `ENABLE_DEBUG`
    pub debug: bool,
    /// `OAUTH_CONFIG_DIR`, in case it is mounted.
    pub oauth_dir: PathBuf,
}

impl SessionContract {
    pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        let contract = Self::read(&mut reader);
        reader.finish(contract)
    }

    fn read<L: Fn(&str) -> Option<String>>(reader: &mut Reader<L>) -> Option<Self> {
        let (action, job_id) = (reader.action(), reader.job_id());
        let (image_root_parent, arch) = (reader.image_root_parent(), reader.arch());
        let (session, debug) = (reader.session(), reader.flag(&vars::ENABLE_DEBUG));
        let oauth_dir = reader.ims()?.oauth_dir;
        Some(Self {
            action: action?,
            job_id: job_id?,
            image_root_parent,
            arch,
            session,
            debug,
            oauth_dir,
        })
    }
}

/// A container that does one of the steps before the sessions.
#[derive(Debug, Clone)]
pub struct StepContract {
    pub job_id: Uuid,
    pub ims: ImsAccess,
    /// `DOWNLOAD_MD5SUM`, in lower-case hex.
    pub md5: Option<String>,
    /// How the store's certificate is verified, if it is set.
    pub store_trust: Option<Trust>,
    pub image_root_parent: PathBuf,
    pub recipe: Recipe,
    /// The image's.
    pub arch: Arch,
    pub log_level: Level,
}

impl StepContract {
    pub fn from_vars(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Faults> {
        let mut reader = Reader::new(lookup);
        let contract = Self::read(&mut reader);
        reader.finish(contract)
    }

    fn read<L: Fn(&str) -> Option<String>>(reader: &mut Reader<L>) -> Option<Self> {
        let (job_id, ims) = (reader.job_id(), reader.ims());
        let md5 = reader.optional(&vars::DOWNLOAD_MD5SUM, values::md5_hex);
        let store_trust = reader.s3_trust();
        let image_root_parent = reader.image_root_parent();
        let recipe = reader.recipe(&image_root_parent);
        let arch = reader.arch();
        let log_level = reader.log_level();
        Some(Self {
            job_id: job_id?,
            ims: ims?,
            md5,
            store_trust,
            image_root_parent,
            recipe,
            arch,
            log_level,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(vars: &'static [(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        |name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    const ID: (&str, &str) = ("IMS_JOB_ID", "5a7b1c9e-0000-4000-8000-00000000fa17");

    #[test]
    fn parts_need_no_keys_of_the_store() {
        SessionContract::from_vars(lookup(&[ID, ("IMS_ACTION", "customize")])).unwrap();
        let step = StepContract::from_vars(lookup(&[ID, ("DOWNLOAD_MD5SUM", "")])).unwrap();
        assert_eq!((step.md5, step.store_trust), (None, None));
    }

    #[test]
    fn their_faults_are_told_at_once() {
        let vars = &[("IMS_ACTION", "destroy"), ("SSHD_OPTIONS", "-p x")];
        let faults = SessionContract::from_vars(lookup(vars)).unwrap_err().to_string();
        for name in ["IMS_ACTION", "IMS_JOB_ID", "SSHD_OPTIONS"] {
            assert!(faults.contains(name), "{faults}");
        }
    }
}
