//! The records of IMS (contract section 7). Unknown fields are kept.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Where a record's artifact is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// `s3://bucket/key`.
    pub path: String,
    /// Without quotes. Older records have none.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub etag: String,
    /// `s3`.
    #[serde(rename = "type")]
    pub link_type: String,
}

impl Link {
    /// A link to an object of the store.
    pub fn s3(path: impl Into<String>, etag: impl Into<String>) -> Self {
        Self { path: path.into(), etag: etag.into(), link_type: "s3".to_owned() }
    }
}

/// An image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// A UUID.
    pub id: String,
    /// Need not be unique.
    pub name: String,
    /// A link to the manifest; none until the image is complete.
    #[serde(default)]
    pub link: Option<Link>,
    /// RFC 3339 or without a time zone (then UTC).
    #[serde(default)]
    pub created: Option<String>,
    /// As in [`Arch`](crate::Arch); older records have none.
    #[serde(default)]
    pub arch: Option<String>,
    /// All other fields.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// A UUID.
    pub id: String,
    /// Need not be unique.
    pub name: String,
    /// A link to the recipe archive.
    #[serde(default)]
    pub link: Option<Link>,
    /// All other fields.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A public key of users.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PublicKey {
    /// A UUID.
    pub id: String,
    /// Need not be unique.
    pub name: String,
    /// One line of an authorized_keys file.
    pub public_key: String,
    /// All other fields.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// A UUID.
    pub id: String,
    /// `customize` or `create`.
    pub job_type: String,
    /// The image to customize or the recipe to build.
    pub artifact_id: String,
    /// Text, not [`Status`](crate::Status): a newer IMS may know more states.
    #[serde(default)]
    pub status: Option<String>,
    /// The image that it has made.
    #[serde(default)]
    pub resultant_image_id: Option<String>,
    /// All other fields.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_nobody_here_knows_survive_the_way_through() {
        let record = json!({
            "id": "24", "job_type": "customize", "artifact_id": "1", "status": "success",
            "resultant_image_id": null, "ssh_containers": [{"name": "customize", "jail": false}],
            "kubernetes_pvc": "claim", "remote_build_node": null,
        });
        let job: Job = serde_json::from_value(record.clone()).unwrap();
        assert_eq!(serde_json::to_value(&job).unwrap(), record);
    }

    #[test]
    fn a_link_may_lack_its_etag() {
        for link in [
            json!({"path": "s3://b/k", "type": "s3"}),
            json!({"path": "s3://b/k", "type": "s3", "etag": null}),
        ] {
            assert_eq!(serde_json::from_value::<Link>(link).unwrap(), Link::s3("s3://b/k", ""));
        }
    }
}
