//! A journal of what is being published, written before each step: the next run after a process
//! that was killed finishes it or rolls it back.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use ims_client::Arch;
use ims_client::Image;

/// Version of the file.
const VERSION: u32 = 1;

/// The progress of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The record was requested; its id is not known yet.
    Creating,
    /// The record exists, objects may exist.
    Uploading,
    /// The image is complete and stays.
    Linked,
}

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    version: u32,
    pub stage: Stage,
    pub image_id: Option<String>,
    pub bucket: String,
    pub name: String,
    pub arch: Arch,
    /// When the record was requested, by this machine's clock.
    pub begun: Timestamp,
    pub job_id: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the publication journal {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the publication journal {path} is damaged: look for an image record without a link, then \
         remove the file"
    )]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("cannot write the publication journal {path}")]
    Write { path: PathBuf, source: io::Error },
}

impl Entry {
    pub fn new(name: &str, arch: Arch, bucket: &str, job_id: Option<&str>) -> Self {
        Self {
            version: VERSION,
            stage: Stage::Creating,
            image_id: None,
            bucket: bucket.to_owned(),
            name: name.to_owned(),
            arch,
            begun: Timestamp::now(),
            job_id: job_id.map(str::to_owned),
        }
    }
}

impl Entry {
    /// An entry whose image is to be rolled back although it is complete.
    pub fn uploading(image: &Image, bucket: &str) -> Self {
        let entry = Self::new(&image.name, Arch::default(), bucket, None);
        Self { stage: Stage::Uploading, image_id: Some(image.id.clone()), ..entry }
    }
}

/// Where one publication is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journal {
    path: PathBuf,
}

impl Journal {
    /// The journal in the file `path`, which need not be there yet.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The unfinished publication, if there is one.
    pub fn load(&self) -> Result<Option<Entry>, Error> {
        let path = self.path.clone();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::Read { path, source }),
        };
        if text.is_empty() {
            // Made to be locked, and nothing was begun.
            return Ok(None);
        }
        serde_json::from_slice(&text).map(Some).map_err(|source| Error::Damaged { path, source })
    }

    /// On disk when this returns.
    pub fn save(&self, entry: &Entry) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(entry).expect("plain data can be written as JSON");
        let write = || {
            let directory = self.path.parent().unwrap_or(Path::new("/"));
            let mut new = tempfile::NamedTempFile::new_in(directory)?;
            new.write_all(&text)?;
            new.as_file().sync_all()?;
            new.persist(&self.path)?;
            std::fs::File::open(directory)?.sync_all()
        };
        write().map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    /// Everything is finished or rolled back.
    pub fn remove(&self) -> Result<(), Error> {
        match std::fs::remove_file(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Write { path: self.path.clone(), source })
            }
            _ => Ok(()),
        }
    }
}
