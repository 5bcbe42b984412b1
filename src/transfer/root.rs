//! Paths inside an image, as a process in it would see them: links are followed inside the root only.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use crate::transfer::paths::{parts, shown};
use squashfs::format::metadata::Reference;
use squashfs::format::{Inode, Kind, inode};
use squashfs::read::{self, BlockReader, Image};

/// Links followed on one path, as many as Linux follows.
const MAX_LINKS: usize = 40;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the image")]
    Image(#[from] read::Error),
    #[error("/{path}: symbolic links in this path form a loop")]
    LinkLoop { path: String },
    #[error("cannot write the content of /{path} of the image")]
    Write { path: String, source: io::Error },
}

/// The root of an image.
pub struct Root {
    image: Image,
}

/// A regular file that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where it is, links followed; relative to the root.
    pub path: Vec<u8>,
    /// Equal for all names of one file.
    pub at: Reference,
    file: inode::File,
}

impl Root {
    pub fn new(image: Image) -> Self {
        Self { image }
    }

    /// The regular file at `path`, links followed; `None` if there is none.
    pub fn file(&self, path: &[u8]) -> Result<Option<Found>, Error> {
        let Some((path, at, inode)) = self.resolve(path)? else { return Ok(None) };
        Ok(match inode.kind {
            Kind::File(file) => Some(Found { path, at, file }),
            _ => None,
        })
    }

    /// The names in the directory at `path`, links to it followed; none if there is no such directory.
    pub fn names(&self, path: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        Ok(match self.resolve(path)? {
            Some((_, _, Inode { kind: Kind::Directory(directory), .. })) => {
                self.image.list(&directory)?.into_iter().map(|entry| entry.name).collect()
            }
            _ => Vec::new(),
        })
    }

    /// The first bytes of a file.
    pub fn head(&self, found: &Found, length: usize) -> Result<Vec<u8>, Error> {
        let mut head = vec![0; length.min(found.file.size as usize)];
        let copied = BlockReader::new(&self.image)?.file(&found.file, |offset, bytes| {
            if offset >= head.len() as u64 {
                return Err(Enough::Enough);
            }
            let target = &mut head[offset as usize..];
            let step = target.len().min(bytes.len());
            target[..step].copy_from_slice(&bytes[..step]);
            Ok(())
        });
        match copied {
            Ok(()) | Err(Enough::Enough) => Ok(head),
            Err(Enough::Failed(error)) => Err(error.into()),
        }
    }

    /// Writes the content of a file to `out`.
    pub fn extract(&self, found: &Found, out: &mut File) -> Result<(), Error> {
        let failed = |source| Error::Write { path: shown(&found.path), source };
        out.set_len(found.file.size).map_err(failed)?;
        BlockReader::new(&self.image)?
            .file(&found.file, |offset, bytes| out.write_all_at(bytes, offset).map_err(failed))?;
        out.flush().map_err(failed)
    }

    fn resolve(&self, path: &[u8]) -> Result<Option<(Vec<u8>, Reference, Inode)>, Error> {
        let root = self.image.root();
        let mut ahead: Vec<Vec<u8>> = parts(path).rev().map(<[u8]>::to_vec).collect();
        let mut way = vec![(Vec::new(), root, self.image.inode(root)?)];
        let mut links = 0;
        while let Some(name) = ahead.pop() {
            let (_, _, here) = way.last().expect("the root stays");
            if name == b".." {
                way.truncate((way.len() - 1).max(1));
                continue;
            }
            let Kind::Directory(directory) = &here.kind else { return Ok(None) };
            let entries = self.image.list(directory)?;
            let Ok(index) = entries.binary_search_by(|entry| entry.name.cmp(&name)) else {
                return Ok(None);
            };
            let at = entries[index].inode;
            let inode = self.image.inode(at)?;
            if let Kind::Symlink(target) = &inode.kind {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Error::LinkLoop { path: shown(path) });
                }
                if target.starts_with(b"/") {
                    way.truncate(1);
                }
                ahead.extend(parts(target).rev().map(<[u8]>::to_vec));
                continue;
            }
            way.push((name, at, inode));
        }
        let whole = way.iter().skip(1).map(|(name, ..)| name.as_slice()).collect::<Vec<_>>();
        let whole = whole.join(&b'/');
        Ok(way.pop().map(|(_, at, inode)| (whole, at, inode)))
    }
}

/// Ends the reading of a file early.
enum Enough {
    Enough,
    Failed(read::Error),
}

impl From<read::Error> for Enough {
    fn from(error: read::Error) -> Self {
        Self::Failed(error)
    }
}
