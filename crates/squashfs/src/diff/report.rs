//! The result of a comparison, for people and as JSON.

use std::fmt;

use serde::Serialize;

use super::super::read::Node;
use crate::format::Kind;

/// All differences, each list in the order of a walk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// What only the new image has.
    pub added: Vec<Item>,
    /// What only the old image has.
    pub removed: Vec<Item>,
    /// What both have, each in its own way.
    pub changed: Vec<Change>,
}

/// Something that only one of the images has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// Relative to the root. Bytes that are not UTF-8 are shown as U+FFFD.
    pub path: String,
    /// The path's bytes in hexadecimal, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// `file`, `directory`, `symlink` and the like: see [`kind`].
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Of files, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// Something that both images have, and that is not the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// As in [`Item::path`].
    pub path: String,
    /// As in [`Item::path_hex`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// What is not the same.
    pub what: Vec<What>,
    /// As it is in the old image.
    pub old: Side,
    /// As it is in the new image.
    pub new: Side,
}

/// What of it is not the same. A symlink's target and a device's number are its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// What kind of thing it is.
    Type,
    /// The bytes of a file, the target of a link, the number of a device.
    Content,
    /// Permission bits.
    Mode,
    /// User or group.
    Owner,
    /// Extended attributes.
    Xattrs,
}

/// One image's version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Side {
    /// See [`kind`].
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Of files, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Permission bits, octal.
    pub mode: String,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Diff {
    /// True if the images do not differ.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl Item {
    pub(super) fn new(node: &Node) -> Self {
        let (path, path_hex) = path(node);
        Self { path, path_hex, kind: kind(&node.inode.kind), size: size(&node.inode.kind) }
    }
}

impl Change {
    pub(super) fn new(node: &Node, what: Vec<What>, (old, new): (Side, Side)) -> Self {
        let (path, path_hex) = path(node);
        Self { path, path_hex, what, old, new }
    }
}

impl Side {
    pub(super) fn new(node: &Node, (uid, gid): (u32, u32)) -> Self {
        let inode = &node.inode;
        let mode = format!("{:04o}", inode.mode);
        Self { kind: kind(&inode.kind), size: size(&inode.kind), mode, uid, gid }
    }
}

/// The type of an inode in a word.
pub fn kind(kind: &Kind) -> &'static str {
    match kind {
        Kind::Directory(_) => "directory",
        Kind::File(_) => "file",
        Kind::Symlink(_) => "symlink",
        Kind::BlockDevice(_) => "block device",
        Kind::CharDevice(_) => "character device",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
    }
}

fn size(kind: &Kind) -> Option<u64> {
    match kind {
        Kind::File(file) => Some(file.size),
        _ => None,
    }
}

/// The root is `.`: an empty path reads badly.
fn path(node: &Node) -> (String, Option<String>) {
    if node.path.is_empty() {
        return (".".to_owned(), None);
    }
    match std::str::from_utf8(&node.path) {
        Ok(path) => (path.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(&node.path).into_owned(), Some(hex::encode(&node.path))),
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Type => "type",
            Self::Content => "content",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Xattrs => "xattrs",
        })
    }
}

impl fmt::Display for Change {
    /// Path, what changed, and from what to what where that is short.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { old, new, .. } = self;
        let details = self.what.iter().map(|what| match what {
            What::Type => format!("type {} -> {}", old.kind, new.kind),
            What::Mode => format!("mode {} -> {}", old.mode, new.mode),
            What::Owner => format!("owner {}:{} -> {}:{}", old.uid, old.gid, new.uid, new.gid),
            What::Content | What::Xattrs => what.to_string(),
        });
        write!(f, "{} ({})", self.path, details.collect::<Vec<_>>().join(", "))
    }
}

/// One line a difference: `+` added, `-` removed, `~` changed. Control characters in names are
/// escaped, so that a name cannot pass for a line.
impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for item in &self.removed {
            writeln!(f, "- {}", one_line(&item.path))?;
        }
        for item in &self.added {
            writeln!(f, "+ {}", one_line(&item.path))?;
        }
        for change in &self.changed {
            writeln!(f, "~ {}", one_line(&change.to_string()))?;
        }
        Ok(())
    }
}

/// Text without control characters.
pub fn one_line(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control().then(|| c.escape_default());
            let plain = escaped.is_none().then_some(c);
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}
