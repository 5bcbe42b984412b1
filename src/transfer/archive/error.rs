//! Why an archive cannot become an image.

use std::io;

/// Paths are shown as they stand in the archive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the archive at byte {position}")]
    Read { position: u64, source: io::Error },
    #[error("the archive ends at byte {position}, before its end mark: it is cut short")]
    Truncated { position: u64 },
    #[error("the archive is damaged at byte {position}: {what}")]
    Damaged { position: u64, what: &'static str },
    #[error("{path}: an entry of type {kind:?} has no place in an image root")]
    EntryType { path: String, kind: char },
    #[error("{path}: {what}; such an entry is refused")]
    Name { path: String, what: &'static str },
    #[error("{path} is a hard link to {target}, which the archive has not held before it")]
    LinkTarget { path: String, target: String },
    #[error("{path}: symbolic links on the way there lead round in a circle")]
    LinkLoop { path: String },
    #[error("{path}: {parent} is no directory")]
    NotADirectory { path: String, parent: String },
    #[error("{path} takes the place of a directory that is not empty")]
    FullDirectory { path: String },
    #[error("{path}: {what} is more than squashfs can hold")]
    TooLarge { path: String, what: &'static str },
}
