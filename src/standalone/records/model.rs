//! The records, with the fields of IMS (contract section 7).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Record, Stamp};
use ims_client::{Arch, Status};

/// Where an artifact is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// `s3://bucket/key`.
    pub path: String,
    #[serde(default)]
    pub etag: String,
    /// `s3`; nothing else is supported.
    #[serde(rename = "type")]
    pub kind: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    pub name: String,
    /// The manifest.
    pub link: Option<Link>,
    pub arch: Arch,
    pub metadata: BTreeMap<String, String>,
    pub id: Uuid,
    pub created: Stamp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyValue {
    pub key: String,
    pub value: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recipe {
    pub name: String,
    /// The archive.
    pub link: Option<Link>,
    pub recipe_type: String,
    pub linux_distribution: String,
    pub template_dictionary: Vec<KeyValue>,
    pub require_dkms: bool,
    pub arch: Arch,
    pub id: Uuid,
    pub created: Stamp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PublicKey {
    pub name: String,
    pub public_key: String,
    pub id: Uuid,
    pub created: Stamp,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    pub artifact_id: Uuid,
    pub public_key_id: Uuid,
    /// `create` or `customize`.
    pub job_type: String,
    pub image_root_archive_name: String,
    pub enable_debug: bool,
    /// GiB.
    pub build_env_size: i64,
    pub kernel_file_name: String,
    pub initrd_file_name: String,
    pub kernel_parameters_file_name: String,
    pub ssh_containers: Vec<SshContainer>,
    pub require_dkms: bool,
    /// GiB.
    pub job_mem_size: i64,
    pub id: Uuid,
    pub created: Stamp,
    pub kubernetes_job: String,
    pub kubernetes_service: String,
    pub kubernetes_configmap: String,
    pub kubernetes_namespace: String,
    pub kubernetes_pvc: String,
    pub kubernetes_secret: Option<String>,
    pub status: Status,
    pub resultant_image_id: Option<Uuid>,
    pub arch: Arch,
    pub remote_build_node: Option<String>,
}

/// A way into a job's session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SshContainer {
    pub name: String,
    pub jail: bool,
    /// IMS writes `pending` and never changes it.
    pub status: String,
    /// By the network it is reached from: `customer_access`, `cluster.local`.
    pub connection_info: BTreeMap<String, Connection>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Connection {
    pub host: String,
    pub port: u16,
}

/// A record in the trash.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Deleted<T> {
    #[serde(flatten)]
    pub record: T,
    pub deleted: Stamp,
}

macro_rules! record {
    ($type:ty, $table:literal, $($path:ident).+) => {
        impl Record for $type {
            const TABLE: &'static str = $table;
            fn id(&self) -> Uuid {
                self.$($path).+.id
            }
            fn created(&self) -> Stamp {
                self.$($path).+.created
            }
        }
    };
    ($type:ty, $table:literal) => {
        impl Record for $type {
            const TABLE: &'static str = $table;
            fn id(&self) -> Uuid {
                self.id
            }
            fn created(&self) -> Stamp {
                self.created
            }
        }
    };
}

record!(Image, "images");
record!(Recipe, "recipes");
record!(PublicKey, "public_keys");
record!(Job, "jobs");
record!(Deleted<Image>, "deleted_images", record);
record!(Deleted<Recipe>, "deleted_recipes", record);
record!(Deleted<PublicKey>, "deleted_public_keys", record);
