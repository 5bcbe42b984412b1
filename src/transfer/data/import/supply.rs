//! The source of an import's files: a directory, or a stream that is read once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::TempDir;

use super::super::layout;
use crate::transfer::archive::{self, Kind, Reader};
use crate::transfer::source::{Compression, decompressed};
use linux::dir::Dir;

/// Longest document that is read: a list of all images of a large site fits many times.
const MAX_DOCUMENT: u64 = 256 << 20;
/// Bytes copied at a time.
const STEP: usize = 1 << 20;

/// Files of an export by their paths in it.
#[derive(Clone)]
pub struct Supply {
    kind: Arc<Supplier>,
}

enum Supplier {
    /// Nothing outside of it is opened, wherever links lead.
    Directory(Dir),
    Stream(Mutex<Stream>),
}

/// A tar archive; files before the requested one are kept until they are requested.
struct Stream {
    reader: Option<Reader<Box<dyn Read + Send>>>,
    spool: TempDir,
    files: HashMap<String, PathBuf>,
    /// What an archive of the whole directory has before its names.
    prefix: String,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open the export in {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot read {path} of the export")]
    File { path: String, source: io::Error },
    #[error("{path:?} is refused: it is outside the export")]
    Traversal { path: String },
    #[error("cannot read the stream")]
    Stream(#[from] archive::Error),
    #[error("cannot unpack the stream")]
    Unpack(#[source] io::Error),
}

impl Error {
    /// True where the file is not in the export.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl Supply {
    pub fn directory(path: &Path) -> Result<Self, Error> {
        let opened = Dir::open(path);
        let opened = opened.map_err(|source| Error::Directory { path: path.to_owned(), source })?;
        Ok(Self { kind: Arc::new(Supplier::Directory(opened)) })
    }

    /// Reads a tar archive, compressed or not; what must be kept for later goes to `scratch`.
    pub fn stream(input: Box<dyn Read + Send>, scratch: &Path) -> Result<Self, Error> {
        let mut input = BufReader::with_capacity(STEP, input);
        let compression = match input.fill_buf().map_err(Error::Unpack)? {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0xfd, b'7', ..] => Compression::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ => Compression::None,
        };
        let plain = decompressed(compression, input).map_err(Error::Unpack)?;
        let spool = tempfile::Builder::new().prefix("ims-import-").tempdir_in(scratch);
        let stream = Stream {
            reader: Some(Reader::new(plain)),
            spool: spool.map_err(Error::Unpack)?,
            files: HashMap::new(),
            prefix: String::new(),
        };
        Ok(Self { kind: Arc::new(Supplier::Stream(Mutex::new(stream))) })
    }

    /// True if files must be requested in the order of the records.
    pub fn is_stream(&self) -> bool {
        matches!(*self.kind, Supplier::Stream(_))
    }

    /// A small file; `None` if the export has none.
    pub async fn document(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let file = match self.open(path).await {
            Err(error) if error.is_missing() => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        let read = file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes);
        let failed = |source| Error::File { path: path.to_owned(), source };
        read.map_err(failed)?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            return Err(failed(io::ErrorKind::FileTooLarge.into()));
        }
        Ok(Some(bytes))
    }

    /// A file of the export.
    pub async fn open(&self, path: &str) -> Result<File, Error> {
        if !layout::is_inside(path) {
            return Err(Error::Traversal { path: path.to_owned() });
        }
        let (kind, path) = (self.kind.clone(), path.to_owned());
        let opened = tokio::task::spawn_blocking(move || match &*kind {
            Supplier::Directory(dir) => dir
                .open_regular_inside(Path::new(&path))
                .map_err(|source| Error::File { path, source }),
            Supplier::Stream(stream) => {
                stream.lock().unwrap_or_else(PoisonError::into_inner).open(&path)
            }
        });
        opened.await.unwrap_or_else(|panic| Err(Error::Unpack(io::Error::other(panic))))
    }

    /// Reads the rest of the stream: its writer gets no broken pipe, and a truncated stream is an
    /// error.
    pub async fn finish(&self) -> Result<(), Error> {
        let kind = self.kind.clone();
        let read = tokio::task::spawn_blocking(move || match &*kind {
            Supplier::Directory(_) => Ok(()),
            Supplier::Stream(stream) => {
                let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                while stream.skip_next()? {}
                Ok(())
            }
        });
        read.await.unwrap_or_else(|panic| Err(Error::Unpack(io::Error::other(panic))))
    }

    /// Releases a file that will not be requested again.
    pub fn release(&self, path: &str) {
        if let Supplier::Stream(stream) = &*self.kind {
            let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
            let name = format!("{}{path}", stream.prefix);
            if let Some(spooled) = stream.files.remove(&name)
                && let Err(error) = std::fs::remove_file(&spooled)
            {
                tracing::warn!(path = %spooled.display(), %error, "cannot remove a file that was imported");
            }
        }
    }
}

impl Stream {
    fn open(&mut self, path: &str) -> Result<File, Error> {
        loop {
            if let Some(spooled) = self.files.get(&format!("{}{path}", self.prefix)) {
                let opened = File::open(spooled);
                return opened.map_err(|source| Error::File { path: path.to_owned(), source });
            }
            if !self.unpack_next()? {
                let source = io::ErrorKind::NotFound.into();
                return Err(Error::File { path: path.to_owned(), source });
            }
        }
    }

    fn skip_next(&mut self) -> Result<bool, Error> {
        let Some(reader) = &mut self.reader else { return Ok(false) };
        Ok(reader.next_entry()?.is_some())
    }

    /// Unpacks one entry; false at the end of the stream.
    fn unpack_next(&mut self) -> Result<bool, Error> {
        let Some(reader) = &mut self.reader else { return Ok(false) };
        let Some(entry) = reader.next_entry()? else {
            self.reader = None;
            return Ok(false);
        };
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        let name = path.strip_prefix("./").unwrap_or(&path).trim_end_matches('/').to_owned();
        if !name.is_empty() && name != "." && !layout::is_inside(&name) {
            return Err(Error::Traversal { path });
        }
        let Kind::File(map) = &entry.kind else { return Ok(true) };
        if let Some((directory, file)) = name.rsplit_once('/')
            && layout::parts(true).any(|part| part.document() == file)
        {
            self.prefix = format!("{directory}/");
        }
        // Numbered: no name of the archive becomes one of the disk.
        let spooled = self.spool.path().join(self.files.len().to_string());
        let spooled = match spooled.exists() {
            true => self.spool.path().join(uuid::Uuid::new_v4().to_string()),
            false => spooled,
        };
        let mut out = File::create_new(&spooled).map_err(Error::Unpack)?;
        let mut buffer = vec![0; STEP];
        let mut left = map.stored();
        while left > 0 {
            let step = left.min(STEP as u64) as usize;
            reader.data(&mut buffer[..step])?;
            out.write_all(&buffer[..step]).map_err(Error::Unpack)?;
            left -= step as u64;
        }
        self.files.insert(name, spooled);
        Ok(true)
    }
}
