//! The body of a request that creates a session: v3, or the camel case of v2.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::store::check_name;
use crate::configure::{inventory, report};

/// The requested session. Fields that do not concern images (`ansible_limit`, `tags` and so on) are
/// ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct Session {
    pub name: String,
    #[serde(alias = "configurationName")]
    pub configuration_name: String,
    #[serde(default, alias = "configurationLimit")]
    configuration_limit: Option<String>,
    target: Target,
}

#[derive(Debug, Clone, Deserialize)]
struct Target {
    definition: String,
    #[serde(default)]
    groups: Vec<Group>,
    #[serde(default)]
    image_map: Vec<Named>,
}

#[derive(Debug, Clone, Deserialize)]
struct Group {
    name: String,
    members: Vec<Uuid>,
}

/// The name of a resulting image.
#[derive(Debug, Clone, Deserialize)]
struct Named {
    source_id: Uuid,
    result_name: String,
}

impl Session {
    /// The error says in words what is wrong.
    pub fn parse(body: &[u8]) -> Result<Self, String> {
        let session: Self = serde_json::from_slice(body)
            .map_err(|error| format!("The body is no session of an image: {error}."))?;
        check_name(&session.name)?;
        if session.target.definition != "image" {
            return Err("Only sessions with the target definition image are served.".into());
        }
        for group in &session.target.groups {
            inventory::check_group(&group.name)?;
        }
        let images = session.images();
        if images.is_empty() {
            return Err("The target groups name no image.".into());
        }
        if let Some(named) =
            session.target.image_map.iter().find(|named| !images.contains(&named.source_id))
        {
            return Err(format!("The image map names {}, which is no target.", named.source_id));
        }
        Ok(session)
    }

    /// The layers to apply; CFS sends an empty text for all.
    pub fn limit(&self) -> Option<&str> {
        self.configuration_limit.as_deref().filter(|limit| !limit.is_empty())
    }

    /// Every target once, in order.
    pub fn images(&self) -> Vec<Uuid> {
        let mut images = Vec::new();
        for id in self.target.groups.iter().flat_map(|group| &group.members) {
            if !images.contains(id) {
                images.push(*id);
            }
        }
        images
    }

    /// The groups an image is in.
    pub fn groups(&self, image: Uuid) -> impl Iterator<Item = &str> {
        let of = move |group: &&Group| group.members.contains(&image);
        self.target.groups.iter().filter(of).map(|group| group.name.as_str())
    }

    /// The name its result is to have.
    pub fn result_name(&self, image: Uuid) -> Option<&str> {
        let mut names = self.target.image_map.iter();
        names.find(|named| named.source_id == image).map(|named| named.result_name.as_str())
    }

    /// The session as it is described, not yet running.
    pub fn record(&self) -> Value {
        let groups: Vec<_> = self
            .target
            .groups
            .iter()
            .map(|group| json!({ "name": group.name, "members": group.members }))
            .collect();
        let image_map =
            self.target.image_map.iter().map(
                |named| json!({ "source_id": named.source_id, "result_name": named.result_name }),
            );
        json!({
            "name": self.name,
            "configuration": {
                "name": self.configuration_name,
                "limit": self.limit().unwrap_or_default(),
            },
            "target": {
                "definition": "image",
                "groups": groups,
                "image_map": image_map.collect::<Vec<_>>(),
            },
            "tags": {},
            "status": {
                "artifacts": [],
                "session": {
                    "job": null,
                    "start_time": report::time(Timestamp::now()),
                    "completion_time": null,
                    "status": "pending",
                    "succeeded": "none",
                },
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_read_and_faults_told() {
        let id = Uuid::new_v4();
        let groups = json!([{"name": "Compute", "members": [id]}, {"name": "X", "members": [id]}]);
        let body = |definition: &str, map: Value| {
            json!({"name": "s", "configurationName": "c", "configuration_limit": "0",
                "target": {"definition": definition, "groups": groups, "image_map": map}})
            .to_string()
        };
        let named = json!([{"source_id": id, "result_name": "r"}]);
        let session = Session::parse(body("image", named).as_bytes()).unwrap();
        assert_eq!(session.configuration_name, "c");
        assert_eq!(session.images(), [id]);
        assert_eq!(session.groups(id).collect::<Vec<_>>(), ["Compute", "X"]);
        assert_eq!(session.result_name(id), Some("r"));
        assert!(Session::parse(body("dynamic", json!([])).as_bytes()).is_err());
        let stranger = json!([{"source_id": Uuid::new_v4(), "result_name": "r"}]);
        assert!(Session::parse(body("image", stranger).as_bytes()).is_err());
    }
}
