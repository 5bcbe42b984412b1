//! Trees of files as values: made for tests, read back, compared entry by entry.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Everything about an entry that an image must keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub mode: u32,
    pub owner: (u32, u32),
    /// Seconds: squashfs keeps no more.
    pub mtime: i64,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The first path (in order) that names the same inode.
    pub same_as: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File { content: Vec<u8> },
    Dir,
    Link { target: PathBuf },
    Device { block: bool, number: u64 },
    Fifo,
    Socket,
}

pub type Tree = BTreeMap<PathBuf, Entry>;

/// Reads a tree, paths relative to `root`; the root itself is `.`.
pub fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut first_names = BTreeMap::new();
    read_below(root, Path::new("."), &mut tree, &mut first_names);
    tree
}

fn read_below(
    root: &Path,
    name: &Path,
    tree: &mut Tree,
    first_names: &mut BTreeMap<(u64, u64), PathBuf>,
) {
    let path = root.join(name);
    let meta = fs::symlink_metadata(&path).unwrap();
    let kind = kind(&path, &meta);
    let same_as = if matches!(kind, Kind::Dir) {
        name.to_owned()
    } else {
        first_names.entry((meta.dev(), meta.ino())).or_insert_with(|| name.to_owned()).clone()
    };
    let is_dir = matches!(kind, Kind::Dir);
    let entry = Entry {
        kind,
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        mtime: meta.mtime(),
        xattrs: xattrs(&path),
        same_as,
    };
    tree.insert(name.to_owned(), entry);
    if is_dir {
        let mut names: Vec<_> =
            fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for child in names {
            read_below(root, &name.join(child), tree, first_names);
        }
    }
}

fn kind(path: &Path, meta: &fs::Metadata) -> Kind {
    let file_type = meta.file_type();
    if file_type.is_dir() {
        Kind::Dir
    } else if file_type.is_symlink() {
        Kind::Link { target: fs::read_link(path).unwrap() }
    } else if file_type.is_fifo() {
        Kind::Fifo
    } else if file_type.is_socket() {
        Kind::Socket
    } else if file_type.is_block_device() || file_type.is_char_device() {
        Kind::Device { block: file_type.is_block_device(), number: meta.rdev() }
    } else {
        Kind::File { content: fs::read(path).unwrap() }
    }
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    xattr::list(path)
        .unwrap()
        .map(|name| {
            let value = xattr::get(path, &name).unwrap().unwrap_or_default();
            (name.to_string_lossy().into_owned(), value)
        })
        // What overlayfs keeps of its own in an upper layer is not part of the tree.
        .filter(|(name, _)| !name.starts_with("trusted.overlay."))
        .collect()
}

/// Compares two trees and names every difference.
pub fn assert_same(found: &Tree, expected: &Tree) {
    let mut differences = Vec::new();
    for (path, entry) in expected {
        match found.get(path) {
            None => differences.push(format!("{} is missing", path.display())),
            Some(other) if other != entry => differences.push(format!(
                "{}: found {}, expected {}",
                path.display(),
                brief(other),
                brief(entry)
            )),
            Some(_) => {}
        }
    }
    for path in found.keys().filter(|path| !expected.contains_key(*path)) {
        differences.push(format!("{} should not be there", path.display()));
    }
    assert!(differences.is_empty(), "the trees differ:\n  {}", differences.join("\n  "));
}

fn brief(entry: &Entry) -> String {
    let mut text = format!("{entry:?}");
    text.truncate(300);
    text
}

/// A root that is small, quick to pack, and has one of everything: static busybox for a shell,
/// hard links, xattrs, capabilities, devices, odd names, sparse and empty files, a kernel and an
/// initrd (of random bytes) behind plain-name links, and a dangling /etc/resolv.conf.
pub fn make_small_root(root: &Path) {
    for dir in ["bin", "boot", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/lib", "var"]
    {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    chmod(&root.join("tmp"), 0o1777);
    chmod(&root.join("root"), 0o700);
    let busybox =
        ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = busybox.expect("busybox-static is installed by scripts/install test");
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "cp", "ls", "ln", "mkdir", "mv", "rm", "sleep", "touch", "chmod", "id", "env",
        "tty", "stty",
    ] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    write(&root.join("etc/passwd"), b"root:x:0:0:root:/root:/bin/sh\n", 0o644);
    write(&root.join("etc/group"), b"root:x:0:\n", 0o644);
    symlink("../run/resolv/resolv.conf", root.join("etc/resolv.conf")).unwrap();
    make_boot_files(&root.join("boot"));
    make_odd_entries(&root.join("usr/lib"));
}

fn make_boot_files(boot: &Path) {
    write(&boot.join("vmlinuz-6.1.0"), &noise(300_000, 1), 0o644);
    write(&boot.join("initrd.img-6.1.0"), &noise(9_000_000, 2), 0o600);
    symlink("vmlinuz-6.1.0", boot.join("vmlinuz")).unwrap();
    symlink("/boot/initrd.img-6.1.0", boot.join("initrd")).unwrap();
    write(&boot.join("kernel-parameters"), b"console=ttyS0 quiet\n", 0o644);
}

fn make_odd_entries(dir: &Path) {
    write(&dir.join("hard-a"), b"linked\n", 0o640);
    fs::hard_link(dir.join("hard-a"), dir.join("hard-b")).unwrap();
    write(&dir.join("setuid"), b"#!/bin/sh\n", 0o4755);
    write(&dir.join("with xattr"), b"x", 0o644);
    xattr::set(dir.join("with xattr"), "user.note", b"keep me").unwrap();
    xattr::set(dir.join("with xattr"), "trusted.note", b"me too").unwrap();
    write(&dir.join("caps"), b"y", 0o755);
    let cap_net_raw = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    xattr::set(dir.join("caps"), "security.capability", &cap_net_raw).unwrap();
    write(&dir.join("empty"), b"", 0o600);
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    sparse.set_len(3 << 20).unwrap();
    run(Command::new("mknod").arg(dir.join("null")).args(["c", "1", "3"]));
    run(Command::new("mknod").arg(dir.join("disk")).args(["b", "7", "0"]));
    run(Command::new("mkfifo").arg(dir.join("fifo")));
    write(&dir.join("n\u{e4}me with \"quotes\"\n"), b"odd", 0o644);
    std::os::unix::fs::chown(dir.join("empty"), Some(1234), Some(5678)).unwrap();
}

/// Bytes that look random and are the same at every run.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}

pub fn write(path: &Path, content: &[u8], mode: u32) {
    fs::write(path, content).unwrap();
    chmod(path, mode);
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Packs `root` as the incumbent does.
pub fn squash(root: &Path, image: &Path) {
    run(Command::new("mksquashfs").arg(root).arg(image).args([
        "-no-progress",
        "-quiet",
        "-noappend",
    ]));
}

/// Unpacks `image` into `dir`, which must not exist.
pub fn unsquash(image: &Path, dir: &Path) {
    run(Command::new("unsquashfs").args(["-no-progress", "-quiet", "-d"]).arg(dir).arg(image));
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}
