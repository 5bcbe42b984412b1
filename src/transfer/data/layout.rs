//! The files of an export, as the original script ims-import-export.py writes and reads them
//! (contract section 9).
//!
//! There are additional files, which the script ignores: the public keys and the list of checksums.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use ims_client::{Collection, Link};

/// Version of the documents.
pub const VERSION: &str = "1.0";
/// Directory of an export unless another is named.
pub const DEFAULT_DIRECTORY: &str = "ims-import-export-data";
/// Sums of all files, as sha256sum(1) writes and checks them.
pub const SUMS: &str = "SHA256SUMS";
/// What stands for a manifest among the artifacts of an image in the trash.
pub const MANIFEST_TYPE: &str = "application/vnd.cray.image.manifest";

/// A collection, or its trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part {
    pub collection: Collection,
    pub deleted: bool,
}

/// In the order in which they are exported and imported.
pub fn parts(include_deleted: bool) -> impl Iterator<Item = Part> {
    let trash = if include_deleted { &[false, true][..] } else { &[false] };
    [Collection::PublicKeys, Collection::Recipes, Collection::Images].into_iter().flat_map(
        move |collection| trash.iter().map(move |deleted| Part { collection, deleted: *deleted }),
    )
}

impl Part {
    /// The document with its records.
    pub fn document(self) -> &'static str {
        match (self.collection, self.deleted) {
            (Collection::Images, false) => "images.json",
            (Collection::Images, true) => "deleted_images.json",
            (Collection::Recipes, false) => "recipes.json",
            (Collection::Recipes, true) => "deleted_recipes.json",
            (Collection::PublicKeys, false) => "public_keys.json",
            (Collection::PublicKeys, true) => "deleted_public_keys.json",
        }
    }

    /// Directory of a record's artifacts.
    pub fn directory(self, id: &str) -> String {
        let trash = if self.deleted { "deleted/" } else { "" };
        format!("{trash}{}/{id}", self.collection.path())
    }
}

/// Records of one part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Document {
    #[serde(default)]
    pub timestamp: String,
    pub version: String,
    pub records: Vec<Value>,
}

impl Document {
    pub fn new(records: Vec<Value>) -> Self {
        Self { timestamp: timestamp(), version: VERSION.to_owned(), records }
    }
}

/// Now, as Python writes a time with its zone.
pub fn timestamp() -> String {
    jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S%.6f%:z").to_string()
}

/// Where an export keeps the artifacts of an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageFiles {
    pub manifest_json: String,
    pub image_artifacts: Vec<ImageFile>,
    /// What is beside the manifest and is not listed there. Only from this program;
    /// ims-import-export.py imports what the manifest lists, and looks at nothing else.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryFile>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryFile {
    /// Last part of the object's key.
    pub name: String,
    pub path: String,
    /// Hex; may be empty.
    #[serde(default)]
    pub md5: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageFile {
    /// Hex; may be empty.
    #[serde(default)]
    pub md5: String,
    #[serde(rename = "type")]
    pub media_type: String,
    pub path: String,
}

/// Where an export keeps the archive of a recipe.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RecipeFile {
    pub recipe_archive: String,
}

/// The text of a record's field; empty if it has none.
pub fn text<'a>(record: &'a Value, field: &str) -> &'a str {
    record.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A record's link; `None` if it is null, or empty as in [`without_link`].
pub fn link(record: &Value) -> Option<Link> {
    let link: Link = serde_json::from_value(record.get("link")?.clone()).ok()?;
    (!link.path.is_empty()).then_some(link)
}

/// How a record without a link is written: ims-import-export.py fails on `null`, and skips such a
/// record.
pub fn without_link() -> Value {
    json!({ "path": "", "etag": "", "type": "" })
}

/// True for an id that can be the name of a directory.
pub fn is_id(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// True for a path below the export's directory that goes nowhere else.
pub fn is_inside(path: &str) -> bool {
    let mut components = Path::new(path).components();
    !path.is_empty()
        && !path.contains('\0')
        && components.all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_records_stay_inside() {
        assert!(is_inside("images/1/rootfs"));
        for bad in ["", "/etc/passwd", "images/../../etc/passwd", "../x", "a\0b"] {
            assert!(!is_inside(bad), "{bad}");
        }
        assert!(is_id("0f1acea4-2bf1-4931-ac19-ce3c484af540"));
        for bad in ["", "..", "a/b", "."] {
            assert!(!is_id(bad), "{bad}");
        }
    }

    #[test]
    fn a_link_may_be_written_as_null_or_empty() {
        assert_eq!(link(&json!({ "link": null })), None);
        assert_eq!(link(&json!({ "link": without_link() })), None);
        let some = json!({ "link": { "path": "s3://b/k", "type": "s3" } });
        assert_eq!(link(&some), Some(Link::s3("s3://b/k", "")));
    }

    #[test]
    fn the_documents_are_those_of_the_script() {
        let names: Vec<_> = parts(true).map(Part::document).collect();
        assert!(names.contains(&"recipes.json") && names.contains(&"deleted_images.json"));
        let part = Part { collection: Collection::Images, deleted: true };
        assert_eq!(part.directory("1"), "deleted/images/1");
        assert!(timestamp().len() >= "2024-01-01 00:00:00.000000+00:00".len(), "{}", timestamp());
    }
}
