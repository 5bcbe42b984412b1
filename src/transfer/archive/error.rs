//! Why an archive cannot be converted to an image.

use std::io;

/// Paths are shown as they stand in the archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the archive at byte {position}")]
    Read { position: u64, source: io::Error },
    #[error("the archive ends at byte {position}, before its end mark: it is truncated")]
    Truncated { position: u64 },
    #[error("the archive is damaged at byte {position}: {what}")]
    Damaged { position: u64, what: &'static str },
    #[error("{path}: an image root cannot contain an entry of type {kind:?}")]
    EntryType { path: String, kind: char },
    #[error("{path}: {what}; such an entry is refused")]
    Name { path: String, what: &'static str },
    #[error("{path} is a hard link to {target}, which is not earlier in the archive")]
    LinkTarget { path: String, target: String },
    #[error("{path}: symbolic links in this path form a loop")]
    LinkLoop { path: String },
    #[error("{path}: {parent} is not a directory")]
    NotADirectory { path: String, parent: String },
    #[error("{path} would replace a directory that is not empty")]
    FullDirectory { path: String },
    #[error("{path}: {what} exceeds a limit of the squashfs format")]
    TooLarge { path: String, what: &'static str },
}
