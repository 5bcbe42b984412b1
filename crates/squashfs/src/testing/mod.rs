//! What the tests of this room share: trees of all that squashfs can hold, and descriptions of trees
//! that can be compared.

pub(crate) mod describe;
pub(crate) mod image;
pub(crate) mod nasty;

use std::path::{Path, PathBuf};
use std::process::Command;

use tokio_util::sync::CancellationToken;

use super::write::{Options, Summary};

pub(crate) use describe::{assert_same, directory};
pub(crate) use image::image;

/// Packs with nobody watching.
pub(crate) fn pack(root: &Path, out: &Path, options: &Options) -> Summary {
    super::pack(root, out, options, &(), &CancellationToken::new()).unwrap()
}

/// Runs a program that must succeed; the packages are those that scripts/test installs.
pub(crate) fn tool(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// What is left of an overlay on an image when it is unmounted, and the tree that its user saw.
pub(crate) struct Overlaid {
    pub upper: PathBuf,
    pub work: PathBuf,
    pub seen: describe::Tree,
}

/// Changes an image through a real overlay with its layers in `dir`.
pub(crate) fn overlaid(
    base: &Path,
    dir: &Path,
    options: &str,
    change: impl FnOnce(&Path),
) -> Overlaid {
    let [lower, merged, upper, work] =
        ["lower", "merged", "upper", "work"].map(|name| dir.join(name));
    for dir in [&merged, &upper, &work] {
        std::fs::create_dir(dir).unwrap();
    }
    let _mounted = Mounted::new(base, &lower);
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}{options}",
        lower.display(),
        upper.display(),
        work.display()
    );
    tool("mount", &["-t", "overlay", "overlay", "-o", &layers, merged.to_str().unwrap()]);
    let overlay = Mounted(&merged);
    change(&merged);
    let seen = directory(&merged);
    drop(overlay);
    Overlaid { upper, work, seen }
}

/// An image that the kernel has mounted, until it is dropped.
pub(crate) struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    pub(crate) fn new(image: &Path, at: &'a Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        tool("mount", &["-o", "loop,ro", image.to_str().unwrap(), at.to_str().unwrap()]);
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        tool("umount", &[self.0.to_str().unwrap()]);
    }
}
