//! The image file while it is written: under another name until it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::Error;
use super::scan::Identity;
use crate::format::metadata::Header;
use crate::format::superblock::{self, Superblock};
use linux::blocks::copy_range;

/// Bytes gathered before they are written.
const BUFFER: usize = 1 << 20;
/// Images end on a multiple of this, as mksquashfs pads them for block devices.
const PADDING: u64 = 4096;

/// Writes an image from front to back, its superblock last.
pub(crate) struct Sink {
    file: File,
    path: PathBuf,
    partial: PathBuf,
    buffer: Vec<u8>,
    /// Bytes of the image so far, those in the buffer counted.
    position: u64,
    finished: bool,
}

impl Sink {
    /// Starts the image that shall be at `path`; what is there stays until the new one is whole.
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let partial = path.with_file_name(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&partial)
            .map_err(|source| Error::Write { path: partial.clone(), source })?;
        Ok(Self {
            file,
            path: path.to_owned(),
            partial,
            buffer: Vec::with_capacity(BUFFER),
            position: 0,
            finished: false,
        })
    }

    /// Which file it is, so that a walk can leave it out.
    pub(crate) fn identity(&self) -> Result<Identity, Error> {
        let data = self.file.metadata().map_err(|e| self.error(e))?;
        Ok((data.dev(), data.ino()))
    }

    /// Leaves room for the superblock and writes the compressor's option block, if there is one.
    pub(crate) fn begin(&mut self, options: Option<&[u8]>) -> Result<(), Error> {
        self.write(&[0; superblock::SIZE])?;
        if let Some(bytes) = options {
            let header = Header { stored: bytes.len() as u16, raw: true };
            self.write(&header.encode())?;
            self.write(bytes)?;
        }
        Ok(())
    }

    /// Byte offset at which the next byte will lie.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            self.file.write_all(bytes).map_err(|e| self.error(e))?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Copies a range of another file, inside the kernel if it can.
    pub(crate) fn copy(&mut self, from: &File, offset: u64, length: u64) -> Result<(), Error> {
        self.flush()?;
        let copied = copy_range(from, offset, &self.file, self.position, length)
            .map_err(|e| self.error(e))?;
        self.position += copied;
        io::Seek::seek(&mut self.file, io::SeekFrom::Start(self.position))
            .map_err(|e| self.error(e))?;
        let mut buffer = vec![0; BUFFER];
        let (mut offset, mut left) = (offset + copied, length - copied);
        while left > 0 {
            let step = left.min(BUFFER as u64) as usize;
            from.read_exact_at(&mut buffer[..step], offset).map_err(|e| self.error(e))?;
            self.write(&buffer[..step])?;
            offset += step as u64;
            left -= step as u64;
        }
        Ok(())
    }

    /// Pads the image, writes its superblock and gives it its name.
    pub(crate) fn finish(mut self, superblock: &Superblock) -> Result<(), Error> {
        self.flush()?;
        self.file
            .set_len(self.position.next_multiple_of(PADDING))
            .and_then(|()| self.file.write_all_at(&superblock.encode(), 0))
            .and_then(|()| fs::rename(&self.partial, &self.path))
            .map_err(|e| self.error(e))?;
        self.finished = true;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        let written = self.file.write_all(&self.buffer).map_err(|e| self.error(e));
        self.buffer.clear();
        written
    }

    fn error(&self, source: io::Error) -> Error {
        Error::Write { path: self.path.clone(), source }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_file(&self.partial)
        {
            tracing::warn!(path = %self.partial.display(), %error, "cannot remove an unfinished \
                image");
        }
    }
}
