//! A tree with one of everything that squashfs can hold, and the cases that packers get wrong.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use linux::stat::FileKind;
use linux::testing::make_node;

/// Bytes that do not compress and depend on the seed alone.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(length);
    out
}

/// Bytes that compress well.
pub(crate) fn text(seed: u64, length: usize) -> Vec<u8> {
    (0..)
        .flat_map(|i: u64| format!("line {} of {seed}\n", i / 3).into_bytes())
        .take(length)
        .collect()
}

/// Makes the tree in the empty directory `root`. Needs root, for devices and attributes.
pub(crate) fn make(root: &Path) {
    contents(root);
    specials(root);
    names(root);
    attributes(root);
    for (path, mode) in [("plain", 0o4755), ("empty", 0o000), ("many", 0o1777), ("sub", 0o700)] {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::chown(root.join("plain"), Some(4_000_000_000), Some(12345)).unwrap();
    fs::set_permissions(root.join("plain"), fs::Permissions::from_mode(0o4755)).unwrap();
    times(root);
}

fn contents(root: &Path) {
    let block = 131_072;
    fs::create_dir_all(root.join("sub/deeper/still")).unwrap();
    fs::write(root.join("plain"), text(1, 1000)).unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    for (name, length) in
        [("below", block - 1), ("exact", block), ("above", block + 1), ("blocks", 5 * block + 77)]
    {
        fs::write(root.join(name), text(length as u64, length)).unwrap();
        fs::write(root.join(format!("{name}.noise")), noise(length as u64, length)).unwrap();
    }
    // Same size, same first block, and different behind it; and true copies.
    let mut twin = text(7, 3 * block);
    fs::write(root.join("twin-1"), &twin).unwrap();
    fs::write(root.join("twin-copy"), &twin).unwrap();
    *twin.last_mut().unwrap() ^= 1;
    fs::write(root.join("twin-2"), &twin).unwrap();
    fs::write(root.join("sub/plain-copy"), text(1, 1000)).unwrap();
    fs::write(root.join("sub/deeper/still/here"), noise(3, 40_000)).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    sparse.write_all_at(&noise(5, 200_000), 1_000_000).unwrap();
    File::create(root.join("all-hole")).unwrap().set_len(1 << 20).unwrap();
    fs::write(root.join("written-zeros"), vec![0; 2 * block + 5]).unwrap();
    fs::write(root.join("small-zeros"), vec![0; 50]).unwrap();
    fs::hard_link(root.join("plain"), root.join("sub/plain-link")).unwrap();
    fs::hard_link(root.join("plain"), root.join("plain-link")).unwrap();
    fs::hard_link(root.join("blocks"), root.join("blocks-link")).unwrap();
}

/// Adds a file of more than 4 GiB, nearly all of it a hole.
pub(crate) fn make_large(root: &Path) {
    File::create(root.join("large")).unwrap().write_all_at(b"end of it", 5 << 30).unwrap();
}

fn specials(root: &Path) {
    symlink("plain", root.join("to-plain")).unwrap();
    symlink("/nowhere/at/all", root.join("dangling")).unwrap();
    symlink("x".repeat(4000), root.join("far")).unwrap();
    let node = |name: &str, kind, device| {
        make_node(&root.join(name), kind, 0o640, device).unwrap();
    };
    node("null", FileKind::CharDevice, (1, 3));
    node("disk", FileKind::BlockDevice, (259, 0x12345));
    node("fifo", FileKind::Fifo, (0, 0));
    node("socket", FileKind::Socket, (0, 0));
    fs::hard_link(root.join("fifo"), root.join("fifo-link")).unwrap();
}

fn names(root: &Path) {
    fs::create_dir(root.join("many")).unwrap();
    for i in 0..3000 {
        fs::write(root.join(format!("many/file-with-a-rather-long-name-{i:05}")), b"").unwrap();
    }
    for name in [&b"\xff\xfe not utf-8 \x01"[..], b"new\nline", b" ", &[b'n'; 255]] {
        fs::write(root.join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
    }
    let mut deep = root.join("sub");
    for level in 0..60 {
        deep.push(format!("level-{level}"));
    }
    fs::create_dir_all(&deep).unwrap();
}

fn attributes(root: &Path) {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr::set(root.join("blocks"), "security.capability", &capability).unwrap();
    for path in ["blocks", "sub", "fifo", "null"] {
        xattr::set(root.join(path), "trusted.mark", b"one value for all").unwrap();
    }
    xattr::set(root.join("to-plain"), "trusted.on-a-link", b"link").unwrap();
    xattr::set(root.join("empty"), "user.empty", b"").unwrap();
    for path in ["above", "exact"] {
        xattr::set(root.join(path), "user.long", &noise(9, 3000)).unwrap();
        xattr::set(root.join(path), format!("user.{path}"), &noise(10, 100)).unwrap();
    }
    for i in 0..600 {
        let path = root.join(format!("many/file-with-a-rather-long-name-{i:05}"));
        xattr::set(path, "user.number", format!("value {i}").as_bytes()).unwrap();
    }
}

fn times(root: &Path) {
    for (path, time) in [("plain", "1970-01-01"), ("sub", "2038-02-01"), ("to-plain", "2001-01-01")]
    {
        let path = root.join(path);
        super::tool("touch", &["-h", "-d", &format!("{time} UTC"), path.to_str().unwrap()]);
    }
}
