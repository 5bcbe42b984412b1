//! A standalone server that one point after the other uses, with the image that all jobs start from.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::ims;
use crate::support::stand::{Objects, Stand};
use crate::support::tree::{self, Tree};

/// What the user does in the image root; doing it twice is the same as once.
pub const CHANGE: &str = "echo changed > etc/motd; rm -f usr/lib/empty; chmod 0600 usr/lib/setuid; \
     printf 'linked\\nmore\\n' > usr/lib/hard-a; mkdir -p opt; ln -sfn /etc/motd opt/link";

/// The image and what is expected of the ones made from it; the same for all benches.
pub struct Sample {
    _dir: TempDir,
    pub image: PathBuf,
    /// The root of the image.
    pub plain: Tree,
    /// The same with the user's changes.
    pub changed: Tree,
}

impl Sample {
    pub fn make() -> Self {
        let dir = tempfile::Builder::new().prefix("ims-chaos-image").tempdir().unwrap();
        let (root, image) = (dir.path().join("root"), dir.path().join("base.sqsh"));
        tree::make_small_root(&root);
        // Not every shape of pod may write attributes of this class.
        xattr::remove(root.join("usr/lib/with xattr"), "trusted.note").unwrap();
        tree::squash(&root, &image);
        let plain = timeless(tree::read(&root));
        tree::run(Command::new("sh").args(["-e", "-c", CHANGE]).current_dir(&root));
        let changed = timeless(tree::read(&root));
        Self { _dir: dir, image, plain, changed }
    }
}

/// Times differ from try to try.
pub fn timeless(mut tree: Tree) -> Tree {
    tree.values_mut().for_each(|entry| entry.mtime = 0);
    tree
}

pub struct Bench {
    pub stand: Stand,
    pub sample: Arc<Sample>,
    /// The record of the image that jobs start from.
    pub base: String,
    /// Uploads that earlier points have left.
    known: BTreeSet<String>,
}

impl Bench {
    pub async fn start(sample: Arc<Sample>) -> Self {
        let stand = Stand::start(Objects::Embedded).await;
        let base = stand.import("base", &sample.image).await;
        Self { stand, sample, base, known: BTreeSet::new() }
    }

    /// Unpacks the image to `root`.
    pub fn unpack(&self, root: &Path) {
        fs::create_dir_all(root.parent().unwrap()).unwrap();
        tree::unsquash(&self.sample.image, root);
    }

    /// Ids of the images that are not the base, deleted ones too.
    pub async fn images(&self) -> Vec<String> {
        let mut ids = Vec::new();
        for collection in ["v3/images", "v3/deleted/images"] {
            let images = self.stand.ims.get(collection).await;
            ids.extend(images.as_array().unwrap().iter().map(ims::id));
        }
        ids.retain(|id| *id != self.base);
        ids
    }

    /// Keys that are not the base's.
    pub async fn keys(&self) -> Vec<String> {
        let mut keys = self.stand.keys("").await;
        keys.retain(|key| !key.starts_with(&self.base));
        keys
    }

    /// Uploads that this point has begun and not finished.
    pub async fn uploads(&self) -> Vec<String> {
        let uploads = self.stand.store.unfinished_uploads("boot-images", "").await.unwrap();
        let uploads = uploads.into_iter().map(|upload| format!("{upload:?}"));
        uploads.filter(|upload| !self.known.contains(upload)).collect()
    }

    /// Removes what a point has left, so that the next one answers for itself alone.
    pub async fn clean(&mut self) {
        let live = self.stand.ims.get("v3/images").await;
        for id in live.as_array().unwrap().iter().map(ims::id).filter(|id| *id != self.base) {
            self.stand.ims.delete(&format!("images/{id}?cascade=false")).await;
        }
        let deleted = self.stand.ims.get("v3/deleted/images").await;
        for id in deleted.as_array().unwrap().iter().map(ims::id) {
            self.stand.ims.delete(&format!("v3/deleted/images/{id}")).await;
        }
        for key in self.keys().await {
            let object = s3_client::Object::new("boot-images", key);
            self.stand.store.delete(&object, &CancellationToken::new()).await.unwrap();
        }
        self.known.extend(self.uploads().await);
    }
}
