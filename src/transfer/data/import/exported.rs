//! One record of an export: its fields, and the paths of its files.

use serde_json::{Map, Value, json};

use super::super::layout::{self, ImageFile, ImageFiles, MANIFEST_TYPE, Part, RecipeFile};
use crate::transfer::existing::Content;
use ims_client::{Collection, Link};

/// A record of the export and where it belongs.
pub struct Exported<'a> {
    pub part: Part,
    pub record: &'a Value,
    pub id: &'a str,
    pub name: &'a str,
    pub link: Option<Link>,
}

impl<'a> Exported<'a> {
    pub fn new(part: Part, record: &'a Value) -> Self {
        let (id, name) = (layout::text(record, "id"), layout::text(record, "name"));
        Self { part, record, id, name, link: layout::link(record) }
    }

    /// Its name in the journal.
    pub fn key(&self) -> String {
        format!("{}/{}", self.part.document(), self.id)
    }

    /// What a new record is made of: every field that the service takes.
    pub fn fields(&self) -> Value {
        let names: &[&str] = match self.part.collection {
            Collection::Images => &["name", "arch", "metadata"],
            Collection::Recipes => &[
                "name",
                "recipe_type",
                "linux_distribution",
                "arch",
                "require_dkms",
                "template_dictionary",
            ],
            Collection::PublicKeys => &["name", "public_key"],
        };
        let kept = names.iter().filter_map(|name| Some((*name, self.record.get(*name)?)));
        let kept = kept.filter(|(_, value)| !value.is_null() && **value != json!({}));
        kept.map(|(name, value)| (name.to_owned(), value.clone())).collect::<Map<_, _>>().into()
    }

    /// Where the export keeps an image's artifacts: as it says, or where ims-import-export.py
    /// looks.
    pub fn image_files(&self, link: &Link) -> ImageFiles {
        let said = self.record.get("linked_artifacts").cloned();
        said.and_then(|said| serde_json::from_value(said).ok()).unwrap_or_else(|| ImageFiles {
            manifest_json: self.usual_path(&link.path),
            image_artifacts: Vec::new(),
            history: Vec::new(),
        })
    }

    pub fn recipe_file(&self, link: &Link) -> String {
        let said = self.record.get("linked_artifacts").cloned();
        let said = said.and_then(|said| serde_json::from_value::<RecipeFile>(said).ok());
        said.map_or_else(|| self.usual_path(&link.path), |said| said.recipe_archive)
    }

    fn usual_path(&self, object: &str) -> String {
        let name = object.rsplit('/').next().unwrap_or_default();
        format!("{}/{name}", self.part.directory(self.id))
    }
}

/// The content of an image as the export lists it.
pub fn content(files: &[ImageFile]) -> Content {
    let mut content: Content = files
        .iter()
        .filter(|file| file.media_type != MANIFEST_TYPE)
        .map(|file| (file.media_type.clone(), file.md5.to_ascii_lowercase()))
        .collect();
    content.sort();
    content
}
