//! The real tools on real trees; needs root and squashfs-tools.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use progress::Progress;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::format::Superblock;
use crate::format::superblock::Compressor;
use crate::test_tree::{self, Listing, sh};

/// Remembers how far the tool was.
#[derive(Default)]
struct Counter(AtomicU64);

impl Counter {
    fn done(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Progress for Counter {
    fn set_total(&self, _: u64) {}
    fn add(&self, _: u64) {}
    fn set(&self, done: u64) {
        self.0.store(done, Ordering::Relaxed);
    }
}

fn pack_with(root: &Path, out: &Path, threads: usize, memory: Option<u64>) -> Result<u64, Error> {
    let cancel = CancellationToken::new();
    pack(&Pack { root, out, threads, memory, meter: &(), cancel: &cancel })
}

fn pack_simply(root: &Path, out: &Path) -> Result<u64, Error> {
    pack_with(root, out, 2, None)
}

fn unpack_simply(image: &Path, root: &Path) {
    let (meter, cancel) = (Counter::default(), CancellationToken::new());
    unpack(&Unpack { image, root, threads: 2, meter: &meter, cancel: &cancel }).unwrap();
    assert_eq!(meter.done(), 100);
}

#[test]
fn a_tree_survives_packing_and_unpacking() {
    let dir = tempfile::tempdir().unwrap();
    let (tree, out, again) =
        (dir.path().join("tree"), dir.path().join("out.sqsh"), dir.path().join("again"));
    test_tree::make(&tree);
    let meter = Counter::default();
    let cancel = CancellationToken::new();
    let memory = Some(1 << 30);
    let request =
        Pack { root: &tree, out: &out, threads: 2, memory, meter: &meter, cancel: &cancel };
    let size = pack(&request).unwrap();
    assert_eq!(meter.done(), 100);
    assert_eq!(size, out.metadata().unwrap().len());
    let superblock = Superblock::parse(&std::fs::read(&out).unwrap()).unwrap();
    assert_eq!((superblock.compressor, superblock.block_size), (Compressor::Gzip, 128 << 10));
    unpack_simply(&out, &again);
    Listing::of(&tree).assert_same(&Listing::of(&again));
}

#[test]
fn an_older_result_is_replaced_and_not_added_to() {
    let dir = tempfile::tempdir().unwrap();
    sh("mkdir tree; echo 1 > tree/a; echo junk > out; echo junk > out.partial", dir.path());
    let (tree, out) = (dir.path().join("tree"), dir.path().join("out"));
    pack_simply(&tree, &out).unwrap();
    sh("mv tree/a tree/b", dir.path());
    pack_simply(&tree, &out).unwrap();
    let again = dir.path().join("again");
    unpack_simply(&out, &again);
    Listing::of(&tree).assert_same(&Listing::of(&again));
    assert!(!dir.path().join("out.partial").exists());
}

#[test]
fn a_full_disk_is_told_with_path_and_figures_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    sh(
        "mkdir tree small; head -c 3M /dev/urandom > tree/random
         mount -t tmpfs -o size=1M tmpfs small",
        dir.path(),
    );
    let out = dir.path().join("small/out.sqsh");
    let error = pack_simply(&dir.path().join("tree"), &out).unwrap_err();
    let left = std::fs::read_dir(dir.path().join("small")).unwrap().count();
    sh("umount small", dir.path());
    let text = error.to_string();
    assert!(matches!(&error, Error::DiskFull { .. }), "{text}");
    assert!(text.contains("small/out.sqsh: 1.00 MiB were free"), "{text}");
    assert_eq!(left, 0);
}

#[test]
fn a_mount_in_the_root_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    sh("mkdir -p tree/proc; mount -t tmpfs tmpfs tree/proc", dir.path());
    let error = pack_simply(&dir.path().join("tree"), &dir.path().join("out")).unwrap_err();
    sh("umount tree/proc", dir.path());
    assert!(matches!(error, Error::MountedBelow { .. }), "{error}");
    assert!(error.to_string().contains("tree/proc"), "{error}");
}

#[test]
fn cancellation_ends_the_tool_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    sh("mkdir tree; head -c 20M /dev/urandom > tree/random", dir.path());
    let cancel = CancellationToken::new();
    cancel.cancel();
    let (tree, out) = (dir.path().join("tree"), dir.path().join("out"));
    let request =
        Pack { root: &tree, out: &out, threads: 2, memory: None, meter: &(), cancel: &cancel };
    let error = pack(&request).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_root_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = pack_simply(&dir.path().join("nowhere"), &dir.path().join("out")).unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}

#[test]
fn little_memory_is_raised_to_what_the_tool_needs() {
    let dir = tempfile::tempdir().unwrap();
    sh("mkdir tree; echo 1 > tree/a", dir.path());
    let (tree, out) = (dir.path().join("tree"), dir.path().join("out"));
    pack_with(&tree, &out, 0, Some(1 << 20)).unwrap();
}
