//! Images against the kernel, squashfs-tools and squashfs-tools-ng; needs root and those packages.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::format::Compressor;
use super::testing::image::try_image;
use super::testing::nasty::{make, make_large, noise, text};
use super::testing::{Mounted, assert_same, directory, image, pack, tool};
use super::write::{Exclude, Options};

fn options(compressor: Compressor) -> Options {
    let mut options = Options::default();
    options.settings.compressor = compressor;
    options
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Two files that share their first block are not one: the trap that other writers fall into.
#[test]
fn files_that_differ_after_their_first_block_stay_two() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let mut content = noise(1, 131_072 * 2 + 10);
    fs::write(root.join("a"), &content).unwrap();
    content[131_072 + 5] ^= 1;
    fs::write(root.join("b"), &content).unwrap();
    content.truncate(131_072);
    fs::write(root.join("c"), &content).unwrap();
    fs::write(root.join("d"), &content[..100]).unwrap();
    let out = dir.path().join("out");
    assert_eq!(pack(&root, &out, &Options::default()).duplicates, 0);
    assert_same(&image(&out), &directory(&root), "our reader");
}

#[test]
fn every_reader_sees_the_tree_that_was_packed() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    make(&root);
    make_large(&root);
    let expected = directory(&root);
    for compressor in
        [Compressor::Gzip, Compressor::Zstd, Compressor::Xz, Compressor::Lz4, Compressor::Lzo]
    {
        let out = dir.path().join("out.sqsh");
        pack(&root, &out, &options(compressor));
        assert_eq!(out.metadata().unwrap().size() % 4096, 0);
        assert_same(&image(&out), &expected, &format!("our reader, {compressor:?}"));
        let mount = dir.path().join("mnt");
        let mounted = Mounted::new(&out, &mount);
        assert_same(&directory(&mount), &expected, &format!("the kernel, {compressor:?}"));
        drop(mounted);
        let theirs = dir.path().join("theirs");
        tool("unsquashfs", &["-q", "-n", "-d", path(&theirs), path(&out)]);
        assert_same(&directory(&theirs), &expected, &format!("unsquashfs, {compressor:?}"));
        fs::remove_dir_all(&theirs).unwrap();
        let ours = dir.path().join("ours");
        super::unpack(&out, &ours, None, &(), &CancellationToken::new()).unwrap();
        assert_same(&directory(&ours), &expected, &format!("our unpacker, {compressor:?}"));
        fs::remove_dir_all(&ours).unwrap();
    }
}

#[test]
fn large_directories_are_found_by_name_through_their_index() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    for i in 0..20_000 {
        fs::write(root.join(format!("n{}-{i}", "x".repeat(i % 60))), i.to_string()).unwrap();
    }
    let out = dir.path().join("out.sqsh");
    pack(&root, &out, &Options::default());
    let mount = dir.path().join("mnt");
    let _mounted = Mounted::new(&out, &mount);
    for i in 0..20_000 {
        // Looked up one by one, not listed: only this uses the index.
        let found = fs::read_to_string(mount.join(format!("n{}-{i}", "x".repeat(i % 60)))).unwrap();
        assert_eq!(found, i.to_string());
    }
}

#[test]
fn images_of_mksquashfs_are_read_whatever_its_options() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    make(&root);
    let expected = directory(&root);
    let variants: &[&[&str]] = &[
        &[],
        &["-comp", "xz"],
        &["-comp", "xz", "-Xbcj", "x86,arm", "-Xdict-size", "50%"],
        &["-comp", "zstd", "-Xcompression-level", "3"],
        &["-comp", "lz4"],
        &["-comp", "lz4", "-Xhc"],
        &["-comp", "lzo"],
        &["-comp", "gzip", "-Xcompression-level", "1", "-Xwindow-size", "10"],
        &["-b", "4096"],
        &["-b", "1M"],
        &["-no-fragments"],
        &["-always-use-fragments"],
        &["-noI", "-noD", "-noF", "-noX"],
        &["-noId", "-no-exports", "-no-duplicates"],
        &["-no-sparse", "-nopad"],
    ];
    for variant in variants {
        let out = dir.path().join("theirs.sqsh");
        let mut arguments = vec![path(&root), path(&out), "-noappend", "-no-progress"];
        arguments.extend_from_slice(variant);
        tool("mksquashfs", &arguments);
        assert_same(&image(&out), &expected, &format!("{variant:?}"));
        let ours = dir.path().join("ours");
        super::unpack(&out, &ours, None, &(), &CancellationToken::new()).unwrap();
        assert_same(&directory(&ours), &expected, &format!("unpacked, {variant:?}"));
        fs::remove_dir_all(&ours).unwrap();
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_threads() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    make(&root);
    let mut images = Vec::new();
    for threads in [1, 2, 7] {
        let out = dir.path().join(format!("{threads}.sqsh"));
        let options =
            Options { threads: Some(threads), epoch: Some(1_700_000_000), ..Options::default() };
        pack(&root, &out, &options);
        images.push(fs::read(&out).unwrap());
    }
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn no_time_is_later_than_the_epoch_that_was_asked_for() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("new"), "x").unwrap();
    let out = dir.path().join("out.sqsh");
    pack(&root, &out, &Options { epoch: Some(1000), ..Options::default() });
    let read = super::read::Image::open(&out).unwrap();
    assert_eq!(read.superblock().mkfs_time, 1000);
    assert!(image(&out).values().all(|text| text.contains(" 1000 ")));
}

#[test]
fn excluded_paths_are_left_out_with_what_is_below() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("tmp/deep")).unwrap();
    fs::create_dir_all(root.join("var/tmp")).unwrap();
    fs::write(root.join("tmp/deep/file"), "x").unwrap();
    let out = dir.path().join("out.sqsh");
    let exclude = vec![Exclude::new(b"tmp/*"), Exclude::new(b"var")];
    pack(&root, &out, &Options { exclude, ..Options::default() });
    let paths: Vec<_> = image(&out).into_keys().map(|it| it.display().to_string()).collect();
    assert_eq!(paths, ["", "tmp"]);
}

#[test]
fn an_image_that_is_written_into_its_own_tree_is_not_in_it() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("file"), text(1, 300_000)).unwrap();
    let out = dir.path().join("out.sqsh");
    pack(dir.path(), &out, &Options::default());
    assert_eq!(image(&out).len(), 2);
}

#[test]
fn a_failed_pack_leaves_what_was_there() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("out.sqsh");
    fs::write(&out, "old").unwrap();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    let failed = super::pack(&root, &out, &Options::default(), &(), &cancel);
    assert!(failed.is_err());
    assert_eq!(fs::read(&out).unwrap(), b"old");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}

/// A tree that has some of everything and gives a small image.
fn small_tree(root: &Path) {
    fs::create_dir_all(root.join("sub/below")).unwrap();
    for i in 0..40 {
        let path = root.join(format!("sub/{i}"));
        fs::write(&path, text(i, 500 * i as usize)).unwrap();
        xattr::set(&path, "user.n", i.to_string().as_bytes()).unwrap();
    }
    fs::write(root.join("blocks"), text(5, 300_000)).unwrap();
    fs::hard_link(root.join("blocks"), root.join("sub/below/link")).unwrap();
    std::os::unix::fs::symlink("sub", root.join("symlink")).unwrap();
}

/// Damages an image in one to three places and reads it: errors or other content, but no panic, no
/// hang, and nothing outside of the directory that it is unpacked to.
fn damage(good: &[u8], round: u64, at: &Path) {
    let mut random = noise(round + 1, 64).into_iter();
    let mut number = || (0..4).fold(0usize, |n, _| n << 8 | usize::from(random.next().unwrap()));
    let mut bad = good.to_vec();
    let tables = super::read::Image::open(at).map_or(96, |it| it.superblock().inode_table as usize);
    for _ in 0..1 + number() % 3 {
        let place = match number() % 3 {
            0 => number() % 96,
            1 => tables + number() % (good.len() - tables),
            _ => number() % good.len(),
        };
        bad[place] = match number() % 4 {
            0 => 0,
            1 => 0xff,
            2 => bad[place] ^ 1 << (number() % 8),
            _ => number() as u8,
        };
    }
    let path = at.with_extension("bad");
    fs::write(&path, &bad).unwrap();
    let _ = try_image(&path);
    let dir = at.with_extension("dir").join("inner");
    fs::create_dir_all(dir.parent().unwrap()).unwrap();
    let _ = super::unpack(&path, &dir, Some(2), &(), &CancellationToken::new());
    let parent = dir.parent().unwrap();
    assert!(fs::read_dir(parent).unwrap().all(|it| it.unwrap().file_name() == "inner"));
    fs::remove_dir_all(parent).unwrap();
}

/// Rounds of damage; more by hand: `SQUASHFS_DAMAGE_ROUNDS=100000`.
#[allow(clippy::disallowed_methods, reason = "a test, by hand")]
fn rounds() -> u64 {
    std::env::var("SQUASHFS_DAMAGE_ROUNDS").map_or(150, |text| text.parse().unwrap())
}

#[test]
fn damaged_images_give_errors() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    small_tree(&root);
    for compressor in [Compressor::Gzip, Compressor::Xz, Compressor::Lz4, Compressor::Zstd] {
        let out = dir.path().join("out.sqsh");
        pack(&root, &out, &options(compressor));
        let good = fs::read(&out).unwrap();
        (0..rounds()).for_each(|round| damage(&good, round, &out));
        fs::write(&out, &good[..good.len() / 2]).unwrap();
        assert!(try_image(&out).is_err());
    }
}

/// With tables that are not compressed the damage reaches inodes, listings and references.
#[test]
fn damaged_tables_give_errors() {
    let dir = TempDir::new().unwrap();
    let (root, out) = (dir.path().join("root"), dir.path().join("out.sqsh"));
    small_tree(&root);
    let raw = ["-noI", "-noId", "-noX", "-noF", "-no-progress"];
    tool("mksquashfs", &[&[path(&root), path(&out)], &raw[..]].concat());
    let good = fs::read(&out).unwrap();
    (0..4 * rounds()).for_each(|round| damage(&good, round, &out));
}
