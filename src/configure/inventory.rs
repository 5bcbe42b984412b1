//! The inventory that CFS creates for an image: its host is named after the image's id.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Map, Value, json};

/// The group of all images that CFS configures.
const IMAGE_GROUP: &str = "cfs_image";

/// How ansible reaches the session in the image.
#[derive(Debug, Clone)]
pub struct Access<'a> {
    pub address: SocketAddr,
    pub private_key: &'a Path,
    pub known_hosts: &'a Path,
}

/// A group name that ansible takes as it is.
pub fn check_group(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    match name {
        "" => Err("a group has no name".into()),
        "all" | "ungrouped" => Err(format!("the group {name} is reserved by ansible")),
        _ if !name.chars().all(plain) => {
            Err(format!("{name:?} is not a valid group name: use letters, digits, _ - and ."))
        }
        _ => Ok(()),
    }
}

/// The inventory in ansible's YAML form, of which JSON is a part.
pub fn render(image_id: &str, groups: &[String], access: &Access) -> String {
    let options = format!(
        "-F /dev/null -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile={}",
        access.known_hosts.display()
    );
    let host = json!({
        "ansible_host": access.address.ip().to_string(),
        "ansible_port": access.address.port(),
        "ansible_user": "root",
        "ansible_connection": "ssh",
        "ansible_ssh_private_key_file": access.private_key,
        "ansible_ssh_common_args": options,
        "ansible_python_interpreter": "/usr/bin/env python3",
    });
    let members = json!({ "hosts": { image_id: {} } });
    let mut children: Map<String, Value> =
        groups.iter().map(|group| (group.clone(), members.clone())).collect();
    children.insert(IMAGE_GROUP.into(), members);
    let inventory = json!({ "all": {
        "hosts": { image_id: host },
        "vars": { "cray_cfs_image": true },
        "children": children,
    }});
    format!("{inventory:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_in_the_image_group_and_in_those_asked_for() {
        let access = Access {
            address: "127.0.0.1:2222".parse().unwrap(),
            private_key: Path::new("/k"),
            known_hosts: Path::new("/h"),
        };
        let text = render("id-1", &["Compute".into()], &access);
        let value: Value = serde_json::from_str(&text).unwrap();
        let all = &value["all"];
        assert_eq!(all["hosts"]["id-1"]["ansible_port"], 2222);
        assert_eq!(all["hosts"]["id-1"]["ansible_python_interpreter"], "/usr/bin/env python3");
        assert_eq!(all["vars"]["cray_cfs_image"], true);
        for group in ["cfs_image", "Compute"] {
            assert_eq!(all["children"][group]["hosts"]["id-1"], json!({}));
        }
    }

    #[test]
    fn groups_that_ansible_would_take_apart_are_refused() {
        assert!(check_group("Application_UAN").is_ok());
        for name in ["", "all", "a:b", "a b", "!x"] {
            assert!(check_group(name).is_err(), "{name}");
        }
    }
}
