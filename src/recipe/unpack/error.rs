//! Why an archive is not unpacked.

use std::io;
use std::path::PathBuf;

use linux::disk::human;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{path} is not a recipe archive: it is neither a tar file nor one compressed with gzip, \
         zstd or xz"
    )]
    NoArchive { path: PathBuf },
    #[error("the recipe's archive {path} is damaged or truncated")]
    Broken { path: PathBuf, source: io::Error },
    #[error("the recipe's archive {path} is empty")]
    Empty { path: PathBuf },
    #[error("the recipe's archive is refused because of {name}: {why}")]
    Refused { name: String, why: Refused },
    #[error("{name} of the recipe's archive is a link to {target}, which is not in the archive")]
    LinkToNothing { name: String, target: String, source: io::Error },
    #[error("cannot unpack {name} of the recipe's archive")]
    Write { name: String, source: io::Error },
    #[error("cancelled while unpacking the recipe")]
    Cancelled,
}

/// What a recipe has no use for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("its path is absolute")]
    Absolute,
    #[error("its path has .. in it")]
    Parent,
    #[error("its path leads through the link {link}")]
    ThroughLink { link: String },
    #[error("it is a link to {target}, outside the recipe")]
    LinkOutside { target: String },
    #[error("it is a hard link to {target}, which is not a regular file")]
    LinkToNoFile { target: String },
    #[error("it is a device node")]
    Device,
    #[error("it is a fifo")]
    Fifo,
    #[error("it is not a file, directory or link")]
    Unknown,
    #[error("the unpacked archive would be larger than {}", human(*.limit))]
    TooLarge { limit: u64 },
    #[error("the archive has more than {limit} entries")]
    TooMany { limit: u64 },
}
