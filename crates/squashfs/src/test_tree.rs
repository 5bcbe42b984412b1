//! Trees that the tests make and compare, entry by entry.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs a shell script in `dir`, ended by its first failure.
pub fn sh(script: &str, dir: &Path) {
    let status = Command::new("bash").args(["-ec", script]).current_dir(dir).status().unwrap();
    assert!(status.success(), "{script}");
}

/// Makes a tree with everything in it that an image can hold.
pub fn make(root: &Path) {
    std::fs::create_dir_all(root).unwrap();
    sh(TREE, root);
}

const TREE: &str = r#"
    mkdir -p etc usr/dir/deep usr/empty var/gone dev tmp boot
    chmod 1777 tmp
    echo plain > usr/plain; chmod 0604 usr/plain; chown 3:4 usr/plain
    echo linked > usr/hard-a; ln usr/hard-a usr/hard-b; ln usr/hard-a etc/hard-c; ln etc/hard-c usr/hard-c
    printf suid > usr/setuid; chown 5:6 usr/setuid; chmod 6755 usr/setuid
    seq 100000 > usr/large
    truncate -s 1M usr/sparse; echo end >> usr/sparse
    : > usr/empty-file
    ln -s /etc/absolute etc/link; ln -s nowhere usr/dir/dangling
    mkdir etc/swap; echo in > etc/swap/in; echo below > usr/dir/deep/below
    mknod dev/null c 1 3; chmod 666 dev/null; mkfifo -m 620 var/fifo
    echo attributes > usr/attributes
    setfattr -n user.u -v 1 usr/attributes; setfattr -n trusted.t -v 2 usr/attributes
    setfattr -n security.capability -v 0sAQAAAgAgAAAAAAAAAAAAAAAAAAA= usr/large
    setfattr -n user.d -v dir usr/dir
    setfattr -n trusted.root -v r .
    echo odd > $'usr/new\nline \xff'
    echo kernel > boot/vmlinuz
    chown 7:8 . ; chmod 0751 .
    find . -exec touch -h -d @1234567890 {} +
    touch -d @1111111111 usr/plain
"#;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    mode: u32,
    owner: (u32, u32),
    device: u64,
    time: i64,
    /// Content of a file, target of a link.
    content: Vec<u8>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The first other name of the same file.
    same_as: Option<PathBuf>,
}

/// All of a tree, by path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing(BTreeMap<PathBuf, Entry>);

impl Listing {
    /// What is at `root` and below it.
    pub fn of(root: &Path) -> Self {
        let mut entries = BTreeMap::new();
        add(root, Path::new(""), &mut entries, &mut BTreeMap::new());
        Self(entries)
    }

    /// Fails with the entries that differ.
    #[track_caller]
    pub fn assert_same(&self, found: &Self) {
        let differs = |(path, entry): &(&PathBuf, &Entry)| found.0.get(*path) != Some(*entry);
        let mut faults: Vec<String> = self
            .0
            .iter()
            .filter(differs)
            .map(|(path, entry)| format!("{path:?}: {entry:?}\n   not {:?}", found.0.get(path)))
            .collect();
        let more = found.0.iter().filter(|(path, _)| !self.0.contains_key(*path));
        faults.extend(more.map(|(path, _)| format!("{path:?} should not be there")));
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}

fn add(
    root: &Path,
    name: &Path,
    entries: &mut BTreeMap<PathBuf, Entry>,
    inodes: &mut BTreeMap<(u64, u64), PathBuf>,
) {
    let path = if name.as_os_str().is_empty() { root.to_path_buf() } else { root.join(name) };
    let at = path.symlink_metadata().unwrap();
    let known = inodes.get(&(at.dev(), at.ino())).cloned().filter(|_| !at.is_dir());
    inodes.entry((at.dev(), at.ino())).or_insert_with(|| name.into());
    let content = if at.is_symlink() {
        std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
    } else if at.is_file() {
        std::fs::read(&path).unwrap()
    } else {
        Vec::new()
    };
    let mut xattrs: Vec<_> = xattr::list(&path)
        .unwrap()
        .map(|key| {
            let value = xattr::get(&path, &key).unwrap().unwrap();
            (key.into_encoded_bytes(), value)
        })
        .collect();
    xattrs.sort();
    let entry = Entry {
        mode: at.mode(),
        owner: (at.uid(), at.gid()),
        device: at.rdev(),
        time: at.mtime(),
        content,
        xattrs,
        same_as: known,
    };
    entries.insert(name.into(), entry);
    if at.is_dir() {
        let mut names: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names.iter().for_each(|child| add(root, &name.join(child), entries, inodes));
    }
}
