//! A directory tree as text, so that two trees can be compared and the difference be read.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::write::source::hash;

/// Path and description of everything in a tree.
pub(crate) type Tree = BTreeMap<PathBuf, String>;

/// Describes the tree at `root`: type, mode, owner, time, content, target, device, attributes, and
/// which names are one file.
pub(crate) fn directory(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut links = HashMap::new();
    visit(root, Path::new(""), &mut tree, &mut links);
    forget_single_names(&mut tree);
    tree
}

/// A link count may tell of names that are not in the tree: those do not count.
pub(crate) fn forget_single_names(tree: &mut Tree) {
    let mut names: HashMap<String, usize> = HashMap::new();
    let first = |text: &str| {
        let start = text.find("first=").unwrap();
        let end = start + text[start..].find(" [").unwrap();
        text[start..end].to_owned()
    };
    for text in tree.values() {
        *names.entry(first(text)).or_default() += 1;
    }
    for text in tree.values_mut() {
        let first = first(text);
        if names[&first] == 1 {
            *text = text.replace(&first, "first=\"\"");
        }
    }
}

fn visit(root: &Path, path: &Path, tree: &mut Tree, links: &mut HashMap<(u64, u64), PathBuf>) {
    let full = root.join(path);
    let data = fs::symlink_metadata(&full).unwrap();
    let kind = data.file_type();
    let mut first = PathBuf::new();
    if data.nlink() > 1 && !kind.is_dir() {
        first = links.entry((data.dev(), data.ino())).or_insert_with(|| path.to_owned()).clone();
    }
    let what = if kind.is_dir() {
        "dir".to_owned()
    } else if kind.is_symlink() {
        format!("link {:?}", fs::read_link(&full).unwrap())
    } else if kind.is_file() {
        format!("file {} {:x}", data.len(), hash(&content(&full, data.len())))
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else if kind.is_socket() {
        "socket".to_owned()
    } else {
        let (major, minor) = linux::stat::device_numbers(data.rdev());
        format!("{} {major}:{minor}", if kind.is_block_device() { "block" } else { "char" })
    };
    // Through an overlay, an image without any attribute does not know what they are.
    let names = match xattr::list(&full) {
        Err(error) if error.raw_os_error() == Some(linux::Errno::EOPNOTSUPP as i32) => None,
        names => Some(names.unwrap()),
    };
    let mut xattrs: Vec<_> = names
        .into_iter()
        .flatten()
        .filter(|name| !name.as_bytes().starts_with(b"system."))
        .map(|name| (xattr::get(&full, &name).unwrap().unwrap(), name))
        .map(|(value, name)| attribute(name.as_bytes(), &value))
        .collect();
    xattrs.sort();
    let text = describe(&what, data.mode(), data.uid(), data.gid(), data.mtime(), &first, &xattrs);
    tree.insert(path.to_owned(), text);
    if kind.is_dir() {
        let mut names: Vec<_> =
            fs::read_dir(&full).unwrap().map(|it| it.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            visit(root, &path.join(name), tree, links);
        }
    }
}

/// Files above this are described by their first and last bytes.
pub(crate) const WHOLE: u64 = 1 << 28;
/// So many of them at either end.
pub(crate) const ENDS: u64 = 1 << 16;

fn content(path: &Path, size: u64) -> Vec<u8> {
    if size <= WHOLE {
        return fs::read(path).unwrap();
    }
    let file = fs::File::open(path).unwrap();
    let mut ends = vec![0; 2 * ENDS as usize];
    let (head, tail) = ends.split_at_mut(ENDS as usize);
    file.read_exact_at(head, 0).unwrap();
    file.read_exact_at(tail, size - ENDS).unwrap();
    ends
}

/// The text for one extended attribute.
pub(crate) fn attribute(name: &[u8], value: &[u8]) -> String {
    let name = name.escape_ascii();
    if value.len() < 40 {
        format!("{name}={}", value.escape_ascii())
    } else {
        format!("{name}=({} bytes, {:x})", value.len(), hash(value))
    }
}

/// Fails with the differences alone: whole trees are too long to read.
pub(crate) fn assert_same(found: &Tree, expected: &Tree, context: &str) {
    let mut differences = Vec::new();
    for path in found.keys().chain(expected.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (a, b) = (found.get(path), expected.get(path));
        if a != b {
            differences.push(format!("{path:?}\n  found    {a:?}\n  expected {b:?}"));
        }
    }
    assert!(
        differences.is_empty(),
        "{context}: {} differences\n{}",
        differences.len(),
        differences[..differences.len().min(10)].join("\n")
    );
}

/// The text for one inode; `first` is the first of its names if it has several.
pub(crate) fn describe(
    what: &str,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    first: &Path,
    xattrs: &[String],
) -> String {
    let mode = if what.starts_with("link") { 0o777 } else { mode & 0o7777 };
    format!("{what} {mode:o} {uid}:{gid} {mtime} first={first:?} {xattrs:?}")
}
