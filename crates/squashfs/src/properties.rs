//! Random trees and random changes: whatever they are, packing and reading give the tree back, and a
//! reuse pack is a full pack of the changed tree.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::format::Compressor;
use super::reuse::{self, Changes, Record};
use super::testing::nasty::{noise, text};
use super::testing::{Overlaid, assert_same, directory, image, overlaid, pack};
use super::write::Options;

const BLOCK: usize = 4096;

/// What is done to a tree, on a few names, so that changes hit what is there.
#[derive(Debug, Clone)]
enum Action {
    File { at: PathBuf, seed: u64, length: usize, noisy: bool },
    Hole { at: PathBuf, length: u64 },
    Link { at: PathBuf, to: PathBuf },
    Symlink { at: PathBuf },
    Remove { at: PathBuf },
    Move { from: PathBuf, to: PathBuf },
    Mode { at: PathBuf, mode: u32 },
    Attribute { at: PathBuf, value: u8 },
}

fn any_path() -> impl Strategy<Value = PathBuf> {
    vec(0..5u8, 1..4).prop_map(|parts| parts.iter().map(|it| format!("n{it}")).collect())
}

fn any_action() -> impl Strategy<Value = Action> {
    // Lengths about block boundaries, few seeds: duplicates and shared beginnings come up.
    let length = (0..5usize, 0..40usize).prop_map(|(blocks, more)| blocks * BLOCK + more);
    let length = prop_oneof![length, 0..3 * BLOCK];
    prop_oneof![
        6 => (any_path(), 0..4u64, length, any::<bool>())
            .prop_map(|(at, seed, length, noisy)| Action::File { at, seed, length, noisy }),
        1 => (any_path(), 0..100_000u64).prop_map(|(at, length)| Action::Hole { at, length }),
        1 => (any_path(), any_path()).prop_map(|(at, to)| Action::Link { at, to }),
        1 => any_path().prop_map(|at| Action::Symlink { at }),
        2 => any_path().prop_map(|at| Action::Remove { at }),
        1 => (any_path(), any_path()).prop_map(|(from, to)| Action::Move { from, to }),
        1 => (any_path(), 0..0o10000u32).prop_map(|(at, mode)| Action::Mode { at, mode }),
        1 => (any_path(), any::<u8>()).prop_map(|(at, value)| Action::Attribute { at, value }),
    ]
}

/// Does what can be done; an action that fits nothing in the tree is skipped.
fn act(root: &Path, action: &Action) {
    let place = |at: &PathBuf| {
        let path = root.join(at);
        let _ = fs::create_dir_all(path.parent().unwrap());
        path
    };
    let _ = match action {
        Action::File { at, seed, length, noisy } => {
            let content = if *noisy { noise(*seed, *length) } else { text(*seed, *length) };
            fs::write(place(at), content)
        }
        Action::Hole { at, length } => {
            fs::File::create(place(at)).and_then(|file| file.set_len(*length))
        }
        Action::Link { at, to } => fs::hard_link(root.join(to), place(at)),
        Action::Symlink { at } => symlink("target", place(at)),
        Action::Remove { at } => {
            let path = root.join(at);
            if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
        }
        Action::Move { from, to } => fs::rename(root.join(from), place(to)),
        Action::Mode { at, mode } => {
            let path = root.join(at);
            // A link's target is not there to be changed.
            if path.is_symlink() {
                Ok(())
            } else {
                fs::set_permissions(path, fs::Permissions::from_mode(*mode))
            }
        }
        Action::Attribute { at, value } => {
            xattr::set(root.join(at), "trusted.property", &vec![*value; usize::from(*value)])
        }
    };
}

fn options() -> Options {
    let mut options = Options { threads: Some(2), ..Options::default() };
    options.settings.block_size = BLOCK as u32;
    options.settings.compressor = Compressor::Lz4;
    options
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_and_any_change_come_back(
        first in vec(any_action(), 0..40),
        then in vec(any_action(), 0..12),
    ) {
        let dir = TempDir::new().unwrap();
        let (root, base) = (dir.path().join("root"), dir.path().join("base"));
        fs::create_dir(&root).unwrap();
        first.iter().for_each(|action| act(&root, action));
        pack(&root, &base, &options());
        assert_same(&image(&base), &directory(&root), "full");
        let cancel = CancellationToken::new();
        let (changed, out) = (dir.path().join("changed"), dir.path().join("out"));
        super::unpack(&base, &changed, Some(2), &(), &cancel).unwrap();
        assert_same(&directory(&changed), &directory(&root), "unpacked");
        let record = Record::new(&base, &changed).unwrap();
        then.iter().for_each(|action| act(&changed, action));
        for changes in [Changes::Recorded(&record), Changes::Content] {
            reuse::pack(&base, changes, &changed, &out, &options(), &(), &cancel).unwrap();
            assert_same(&image(&out), &directory(&changed), &format!("{changes:?}"));
        }
    }

    #[test]
    fn any_change_through_an_overlay_comes_back(
        first in vec(any_action(), 0..30),
        then in vec(any_action(), 0..12),
        indexed in any::<bool>(),
    ) {
        let dir = TempDir::new().unwrap();
        let (root, base) = (dir.path().join("root"), dir.path().join("base"));
        fs::create_dir(&root).unwrap();
        first.iter().for_each(|action| act(&root, action));
        pack(&root, &base, &options());
        let mount_options = match indexed {
            true => ",index=on,redirect_dir=on,metacopy=on,xino=auto",
            false => ",index=off,redirect_dir=off,metacopy=off",
        };
        let Overlaid { upper, work, seen } = overlaid(&base, dir.path(), mount_options, |root| {
            // Without an index an overlay does not show that the names of a copied file are one.
            let shown = |action: &&Action| indexed || !matches!(action, Action::Link { .. });
            then.iter().filter(shown).for_each(|action| act(root, action));
        });
        let changes = Changes::Overlay { upper: &upper, work: indexed.then_some(&work) };
        let cancel = CancellationToken::new();
        let out = dir.path().join("out");
        reuse::pack(&base, changes, &root, &out, &options(), &(), &cancel).unwrap();
        assert_same(&image(&out), &seen, mount_options);
    }
}
