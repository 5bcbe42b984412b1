//! Manifests 1.0 of images (contract section 5): read and checked before an image links to one.

use serde_json::Value;

use super::problem::{Problem, Result};
use crate::standalone::objects::Objects;
use crate::standalone::records::Link;
use s3_client::Object;

/// Longest manifest read, in bytes; IMS has the same limit.
pub const MAX_BYTES: usize = 1024 * 1024;

const ROOTFS: &str = "application/vnd.cray.image.rootfs.squashfs";

/// An artifact that a manifest lists.
#[derive(Debug, Clone, PartialEq)]
pub struct Artifact {
    pub object: Object,
    /// Hex; empty if the manifest has none.
    pub md5: String,
    pub kind: String,
    /// The entry as it stands.
    pub entry: Value,
}

/// Whether an image may link to this manifest.
pub async fn check(objects: &Objects, link: &Link) -> Result<()> {
    let artifacts = artifacts(&read(objects, link).await?)?;
    for artifact in &artifacts {
        if objects.head(&artifact.object).await?.is_none() {
            return Err(Problem::unprocessable(format!(
                "The manifest lists {}, which does not exist.",
                artifact.object
            )));
        }
    }
    rootfs(artifacts).map(|_| ())
}

/// The manifest that a record links to and what it lists, as far as it can be read.
pub async fn objects(objects: &Objects, link: Option<&Link>) -> Vec<Object> {
    let Some((link, at)) = link.and_then(|link| Some((link, object(link).ok()?))) else {
        return Vec::new();
    };
    let listed = read(objects, link).await.and_then(|manifest| artifacts(&manifest));
    let listed = listed.unwrap_or_default().into_iter().map(|artifact| artifact.object);
    listed.chain([at]).collect()
}

/// The manifest as JSON.
pub async fn read(objects: &Objects, link: &Link) -> Result<Value> {
    let object = object(link)?;
    let Some(head) = objects.head(&object).await? else {
        return Err(Problem::unprocessable(format!("There is no object {object}.")));
    };
    if head.size >= MAX_BYTES as u64 {
        return Err(Problem::bad_request(format!(
            "The manifest {object} has {} bytes; {MAX_BYTES} or more are not taken.",
            head.size
        )));
    }
    let bytes = objects.read(&object, MAX_BYTES).await?;
    let bytes = bytes.ok_or_else(|| {
        Problem::unprocessable(format!("The object {object} went away while it was read."))
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Problem::unprocessable(format!("The manifest {object} is not JSON: {error}."))
    })
}

/// Where a link points.
pub fn object(link: &Link) -> Result<Object> {
    link.path.parse().map_err(|_| {
        Problem::unprocessable(format!("The path {:?} is not s3://bucket/key.", link.path))
    })
}

/// The artifacts of a manifest; any number and any types of them.
pub fn artifacts(manifest: &Value) -> Result<Vec<Artifact>> {
    match manifest.get("version") {
        Some(Value::String(version)) if version == "1.0" => {}
        Some(other) => {
            return Err(malformed(format!("its version is {other}; 1.0 is supported")));
        }
        None => return Err(malformed("it has no version")),
    }
    let list = manifest.get("artifacts").ok_or_else(|| malformed("it has no artifacts"))?;
    let list = list.as_array().ok_or_else(|| malformed("its artifacts are not a list"))?;
    list.iter().map(artifact).collect()
}

fn artifact(entry: &Value) -> Result<Artifact> {
    let link = entry.get("link").filter(|link| link.is_object());
    let link = link.ok_or_else(|| malformed("an artifact has no link"))?;
    match link.get("type").and_then(Value::as_str) {
        Some("s3") => {}
        Some(other) => {
            return Err(malformed(format!("the link type {other:?} is not supported")));
        }
        None => return Err(malformed("a link has no type")),
    }
    let path = link.get("path").and_then(Value::as_str);
    let path = path.ok_or_else(|| malformed("a link has no path"))?;
    let object =
        path.parse().map_err(|_| malformed(format!("the path {path:?} is not s3://bucket/key")))?;
    let kind = entry.get("type").and_then(Value::as_str);
    let kind = kind.ok_or_else(|| malformed("an artifact has no type"))?.to_owned();
    let md5 = entry.get("md5").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Artifact { object, md5, kind, entry: entry.clone() })
}

/// The one root file system.
pub fn rootfs(artifacts: Vec<Artifact>) -> Result<Artifact> {
    let mut found = artifacts.into_iter().filter(|artifact| artifact.kind.starts_with(ROOTFS));
    match (found.next(), found.next()) {
        (Some(rootfs), None) => Ok(rootfs),
        (None, _) => Err(Problem::bad_request(format!("The manifest lists no {ROOTFS}."))),
        (Some(_), Some(_)) => {
            Err(Problem::bad_request(format!("The manifest lists more than one {ROOTFS}.")))
        }
    }
}

fn malformed(why: impl std::fmt::Display) -> Problem {
    Problem::unprocessable(format!("The manifest is malformed: {why}."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry() -> Value {
        json!({ "type": ROOTFS, "md5": "m", "link": { "type": "s3", "path": "s3://b/k" } })
    }

    fn judge(manifest: Value) -> Result<Artifact> {
        artifacts(&manifest).and_then(rootfs)
    }

    #[test]
    fn a_good_manifest_gives_its_rootfs() {
        let rootfs = judge(json!({ "version": "1.0", "artifacts": [entry()] })).unwrap();
        assert_eq!(rootfs.object, Object::new("b", "k"));
    }

    #[test]
    fn each_fault_has_its_status() {
        let with = |edit: fn(&mut Value)| {
            let mut entry = entry();
            edit(&mut entry);
            json!({ "version": "1.0", "artifacts": [entry] })
        };
        let table = [
            (422, json!([])),
            (422, json!({ "artifacts": [entry()] })),
            (422, json!({ "version": "2.0", "artifacts": [entry()] })),
            (422, json!({ "version": 1.0, "artifacts": [entry()] })),
            (422, json!({ "version": "1.0" })),
            (422, json!({ "version": "1.0", "artifacts": {} })),
            (422, json!({ "version": "1.0", "artifacts": ["x"] })),
            (422, with(|entry| _ = entry.as_object_mut().unwrap().remove("link"))),
            (422, with(|entry| _ = entry.as_object_mut().unwrap().remove("type"))),
            (422, with(|entry| entry["link"] = json!({ "path": "s3://b/k" }))),
            (422, with(|entry| entry["link"]["type"] = json!("http"))),
            (422, with(|entry| entry["link"]["path"] = json!("/k"))),
            (400, with(|entry| entry["type"] = json!("application/vnd.cray.image.kernel"))),
            (400, json!({ "version": "1.0", "artifacts": [] })),
            (400, json!({ "version": "1.0", "artifacts": [entry(), entry()] })),
        ];
        for (status, manifest) in table {
            let problem = judge(manifest.clone()).unwrap_err();
            assert_eq!(problem.status(), status, "{manifest}");
        }
    }
}
