//! The progress of a configuration, saved after every layer, so that the same command continues
//! there.
//!
//! Layers are identified by a chain of digests: an applied layer counts only after the same layers
//! on the same image.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Configuration, Source};
use crate::publish::manifest::Artifact;
use squashfs::reuse::Range;

/// Of `state.json`; a file of another version counts as none.
const VERSION: u32 = 1;

/// A layer that was applied, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Its place in the configuration, from 0.
    pub index: usize,
    pub name: String,
    pub clone_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The one that was checked out.
    pub commit: String,
    pub playbook: String,
    /// Of the additional inventory, if the configuration has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inventory_commit: Option<String>,
    pub started: Timestamp,
    pub ended: Timestamp,
    /// The playbook failed, and a user completed the layer in a debug session.
    pub by_hand: bool,
    pub added: usize,
    pub removed: usize,
    pub changed: usize,
    /// The image that was published of this layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
}

/// The content of `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// Digest of the image and of all layers up to the last one applied.
    pub chain: String,
    pub started: Timestamp,
    /// File name of the squashfs after the last layer applied.
    pub checkpoint: String,
    pub applied: Vec<Applied>,
    pub in_store: InStore,
    /// Bytes of the base image in the checkpoint.
    pub from_base: Vec<Range>,
}

/// What of the checkpoint the store has, in the root file system of a published image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InStore {
    pub artifact: Artifact,
    pub ranges: Vec<Range>,
}

impl State {
    /// Of an image to which nothing was applied yet; its squashfs of `size` bytes is `artifact`.
    pub fn new(chain: String, checkpoint: &str, artifact: Artifact, size: u64) -> Self {
        Self {
            version: VERSION,
            chain,
            started: Timestamp::now(),
            checkpoint: checkpoint.into(),
            applied: Vec::new(),
            in_store: InStore::whole(artifact, size),
            from_base: vec![Range { base: 0, new: 0, length: size }],
        }
    }

    /// The state that lies in a directory, if any.
    pub fn load(directory: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(path(directory)) {
            Ok(json) => Ok(serde_json::from_slice(&json)
                .ok()
                .filter(|state: &Self| state.version == VERSION)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Another layer was applied: its squashfs was packed with these ranges of the one before.
    pub fn advance(&mut self, chain: String, checkpoint: String, packed: &[Range], layer: Applied) {
        self.in_store.ranges = compose(&self.in_store.ranges, packed);
        self.from_base = compose(&self.from_base, packed);
        self.applied.push(layer);
        self.checkpoint = checkpoint;
        self.chain = chain;
    }

    /// Replaces the file whole.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        serde_json::to_writer(&mut file, self)?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(path(directory))?;
        File::open(directory)?.sync_all()
    }
}

impl InStore {
    pub fn whole(artifact: Artifact, size: u64) -> Self {
        Self { artifact, ranges: vec![Range { base: 0, new: 0, length: size }] }
    }
}

/// Where bytes of the first image lie in the third: `first` leads from the first to the second image,
/// `second` from there to the third. Both sorted by `new` and without overlap.
fn compose(first: &[Range], second: &[Range]) -> Vec<Range> {
    let through = |step: &Range| {
        let (start, end, new) = (step.base, step.base + step.length, step.new);
        let overlapping = first.iter().filter(move |it| it.new < end && start < it.new + it.length);
        let pieces = overlapping.map(move |it| {
            let (from, to) = (start.max(it.new), end.min(it.new + it.length));
            Range { base: it.base + (from - it.new), new: new + (from - start), length: to - from }
        });
        pieces.collect::<Vec<_>>()
    };
    second.iter().flat_map(through).collect()
}

/// A digest for every number of layers applied: none, the first chosen one, the first two, and so on.
pub fn chain(
    configuration: &Configuration,
    chosen: &[usize],
    image_id: &str,
    groups: &[String],
) -> Vec<String> {
    let inventory: &Option<Source> = &configuration.additional_inventory;
    let first = digest("", &(image_id, groups, inventory));
    let layers = chosen.iter().map(|index| &configuration.layers[*index]);
    let mut chain = vec![first];
    for layer in layers {
        let last = chain.last().expect("the chain begins with the image");
        chain.push(digest(last, layer));
    }
    chain
}

fn digest(before: &str, what: &impl Serialize) -> String {
    let json = serde_json::to_vec(what).expect("plain data can be written as JSON");
    hex::encode(Sha256::new().chain_update(before).chain_update(json).finalize())
}

fn path(directory: &Path) -> PathBuf {
    directory.join("state.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(base: u64, new: u64, length: u64) -> Range {
        Range { base, new, length }
    }

    #[test]
    fn ranges_are_followed_through_two_images() {
        let first = [range(100, 96, 50), range(200, 146, 10)];
        let second = [range(90, 96, 20), range(140, 116, 100)];
        let expected = [range(100, 102, 14), range(144, 116, 6), range(200, 122, 10)];
        assert_eq!(compose(&first, &second), expected);
        assert_eq!(compose(&[range(0, 0, 500)], &second), second);
        assert_eq!(compose(&[], &second), []);
    }

    #[test]
    fn the_chain_depends_on_image_groups_and_every_layer_before() {
        let parse = |url: &str| {
            let json = format!(
                r#"{{"layers": [{{"clone_url": "{url}", "branch": "b"}},
                               {{"clone_url": "v", "branch": "b"}}]}}"#
            );
            Configuration::parse(json.as_bytes(), "c").unwrap()
        };
        let chain = |url, image| chain(&parse(url), &[0, 1], image, &["g".into()]);
        assert_eq!(chain("u", "i"), chain("u", "i"));
        let (one, other) = (chain("u", "i"), chain("w", "i"));
        assert_eq!(one[0], other[0]);
        assert_ne!(one[1], other[1]);
        assert_ne!(one[2], other[2]);
        assert_ne!(one[0], chain("u", "j")[0]);
    }

    #[test]
    fn half_a_state_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), None);
        let artifact = Artifact {
            link: ims_client::Link::s3("s3://b/k", "e"),
            media_type: "t".into(),
            md5: String::new(),
        };
        let state = State::new("c".into(), "base.sqsh", artifact, 7);
        state.save(dir.path()).unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), Some(state));
        std::fs::write(path(dir.path()), "{\"version\": 1, \"ch").unwrap();
        assert_eq!(State::load(dir.path()).unwrap(), None);
    }
}
