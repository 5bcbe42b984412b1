//! Prepares an import before anything is uploaded: the root as squashfs, its architecture, its boot
//! files.
//!
//! Blocking; called by `import` off the async threads.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::source::{self, Compression, Source};
use super::{arch, archive, boot, check, root};
use crate::publish;
use crate::telemetry::progress::{Meter, Unit};
use ims_client::Arch;
use squashfs::read::{self, Image};
use squashfs::write::{self, Options};

/// What the caller says of an image to import.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub rootfs: PathBuf,
    /// Instead of what /boot of the root holds.
    pub kernel: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    pub parameters: Option<PathBuf>,
    pub debug_kernel: Option<PathBuf>,
    /// `None`: that of the root's own programs.
    pub arch: Option<Arch>,
    /// Where the squashfs of an archive or directory is created.
    pub scratch: PathBuf,
}

/// Everything that is published.
#[derive(Debug)]
pub struct Prepared {
    pub rootfs: PathBuf,
    pub boot: publish::boot::Files,
    pub arch: Arch,
    /// What could not be kept or found, a sentence each.
    pub notes: Vec<String>,
    /// Contains the squashfs if it was created here.
    scratch: TempDir,
}

impl Prepared {
    /// A directory that is removed with this.
    pub fn scratch(&self) -> &Path {
        self.scratch.path()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Source(#[from] source::Error),
    #[error("cannot use {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot create an image from {}", path.display())]
    Pack { path: PathBuf, source: write::Error },
    #[error("{} cannot be imported", path.display())]
    Check { path: PathBuf, source: check::Error },
    #[error("cannot read the image")]
    Image(#[from] read::Error),
    #[error(transparent)]
    Arch(#[from] arch::Error),
    #[error(transparent)]
    Boot(#[from] boot::Error),
}

/// Detects, converts, checks and looks inside.
pub fn prepare(wanted: &Wanted, cancel: &CancellationToken) -> Result<Prepared, Error> {
    let scratch = tempfile::Builder::new()
        .prefix("ims-import-")
        .tempdir_in(&wanted.scratch)
        .map_err(|source| Error::File { path: wanted.scratch.clone(), source })?;
    // Opened first: a wrong path is an error before the root is packed.
    let given = [&wanted.kernel, &wanted.initrd, &wanted.parameters, &wanted.debug_kernel]
        .map(|path| path.as_deref().map(open).transpose());
    let [kernel, initrd, parameters, debug_kernel] = given;
    let (kernel, initrd, parameters, debug_kernel) = (kernel?, initrd?, parameters?, debug_kernel?);
    let mut notes = Vec::new();
    let rootfs = squashfs(&wanted.rootfs, scratch.path(), &mut notes, cancel)?;
    let root = root::Root::new(Image::open(&rootfs)?);
    let arch = arch::of(&root, wanted.arch)?;
    let ask = boot::Ask {
        kernel: kernel.is_none(),
        initrd: initrd.is_none(),
        parameters: parameters.is_none(),
    };
    let found = boot::find(&root, arch, ask, scratch.path())?;
    let boot = publish::boot::Files {
        kernel: kernel.or(found.kernel),
        initrd: initrd.or(found.initrd),
        parameters: parameters.or(found.parameters),
        debug_kernel,
    };
    for (what, file) in [("kernel", &boot.kernel), ("initrd", &boot.initrd)] {
        if file.is_none() {
            notes.push(format!(
                "/boot of the image root contains no {what} and none was given: nodes cannot boot \
                 this image"
            ));
        }
    }
    Ok(Prepared { rootfs, boot, arch, notes, scratch })
}

/// The root as a squashfs image: as it is if it is one, made in `scratch` otherwise.
fn squashfs(
    given: &Path,
    scratch: &Path,
    notes: &mut Vec<String>,
    cancel: &CancellationToken,
) -> Result<PathBuf, Error> {
    let made = scratch.join("rootfs");
    let options = Options::default();
    let pack = |path: &Path, source| Error::Pack { path: path.to_owned(), source };
    match Source::detect(given)? {
        Source::Squashfs(path) => {
            let meter = Meter::start("check", Unit::Bytes, 0);
            let image = Image::open(&path)?;
            let checked = check::whole(&image, &meter, cancel);
            checked.map_err(|source| Error::Check { path: path.clone(), source })?;
            meter.finish();
            return Ok(path);
        }
        Source::Archive(path, compression) => {
            let converted = convert(&path, compression, &made, &options, cancel)?;
            if converted.absolute > 0 {
                let count = converted.absolute;
                notes.push(format!("removed the leading / of {count} names"));
            }
            if converted.acls > 0 {
                let count = converted.acls;
                notes.push(format!("squashfs cannot store ACLs: dropped those of {count} entries"));
            }
            if converted.times > 0 {
                let count = converted.times;
                notes.push(format!(
                    "squashfs cannot store times before 1970 or after 2106: \
                    changed those of {count} entries"
                ));
            }
            note_xattrs(&converted.summary, notes);
        }
        Source::Directory(path) => {
            let meter = Meter::start("squash", Unit::Bytes, 0);
            let packed = write::pack(&path, &made, &options, &meter, cancel);
            note_xattrs(&packed.map_err(|source| pack(&path, source))?, notes);
            meter.finish();
        }
    }
    check::stamp(&made).map_err(|source| Error::File { path: made.clone(), source })?;
    Ok(made)
}

fn note_xattrs(summary: &write::Summary, notes: &mut Vec<String>) {
    if summary.xattrs_skipped > 0 {
        let count = summary.xattrs_skipped;
        notes.push(format!(
            "squashfs cannot store {count} of the extended attributes: dropped \
            them"
        ));
    }
}

fn convert(
    path: &Path,
    compression: Compression,
    out: &Path,
    options: &Options,
    cancel: &CancellationToken,
) -> Result<archive::Converted, Error> {
    let file = open(path)?;
    let size = file.metadata().map_or(0, |data| data.len());
    let meter = Meter::start("convert", Unit::Bytes, size);
    let counted = Counted { input: file, meter: meter.clone() };
    let input = source::decompressed(compression, counted)
        .map_err(|source| Error::File { path: path.to_owned(), source })?;
    let converted = archive::convert(input, out, options, cancel)
        .map_err(|source| Error::Pack { path: path.to_owned(), source })?;
    meter.finish();
    Ok(converted)
}

fn open(path: &Path) -> Result<File, Error> {
    let opened = File::open(path).and_then(|file| match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    });
    opened.map_err(|source| Error::File { path: path.to_owned(), source })
}

/// Counts what is read.
struct Counted {
    input: File,
    meter: Meter,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.meter.add(read as u64);
        Ok(read)
    }
}
