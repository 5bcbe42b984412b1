//! Imports an image: prepares it, compares it with existing images, publishes and verifies it;
//! rolls everything back if a step fails.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::backend::{Backend, ManifestError};
use super::digest;
use super::existing::{self, Content};
use super::prepare::{self, Prepared, Wanted, prepare};
use super::{publications, verify};
use crate::publish::journal::{Entry, Journal};
use crate::publish::manifest::{Artifact, Kind};
use crate::publish::{self, Published};
use ims_client::{self as ims, Image};

/// What is to be imported, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// Of the image record.
    pub name: String,
    pub image: Wanted,
    /// Make another record even if there is one of the same name and content.
    pub force: bool,
}

/// A registered image.
#[derive(Debug)]
pub struct Imported {
    pub image: Image,
    pub artifacts: Vec<Artifact>,
    /// The manifest, unless the image was there.
    pub manifest: Option<Artifact>,
    /// It was registered before.
    pub existed: bool,
    pub notes: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Prepare(#[from] prepare::Error),
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot list the existing images")]
    List(#[source] ims::Error),
    #[error("cannot compare with an existing image")]
    Compare(#[from] ManifestError),
    #[error("cannot publish the image; everything was rolled back")]
    Publish(#[from] publish::Error),
    #[error(
        "cannot verify image {id} after its registration; it was removed again, the log lists \
         what could not be removed"
    )]
    Verify { id: String, source: verify::Error },
    #[error("image {id} differs from what was uploaded, so it was removed again: {problems}")]
    Wrong { id: String, problems: String },
    #[error("stopped")]
    Cancelled,
}

/// Imports an image. Whatever fails, IMS and the store are as they were before.
pub async fn import(
    backend: &Backend,
    request: Request,
    cancel: &CancellationToken,
) -> Result<Imported, Error> {
    let Request { name, image: wanted, force } = request;
    let prepared = blocking(cancel, move |cancel| prepare(&wanted, cancel)).await??;
    if !force && let Some(found) = find(backend, &name, &prepared, cancel).await? {
        return Ok(Imported { notes: prepared.notes, ..found });
    }
    let Prepared { rootfs, boot, arch, notes, .. } = &prepared;
    let clone = |file: &Option<File>| -> Result<Option<File>, Error> {
        let cloned = file.as_ref().map(File::try_clone).transpose();
        cloned.map_err(|source| Error::Read { path: rootfs.clone(), source })
    };
    let publication = publications::begin_or_warn(backend, cancel).await;
    let journal = match &publication {
        Some(publication) => publication.image(),
        None => Journal::at(prepared.scratch().join("publication")),
    };
    let request = publish::Request {
        journal: journal.clone(),
        image_name: name,
        arch: *arch,
        bucket: backend.bucket.clone(),
        job_id: None,
        rootfs: rootfs.clone(),
        reuse: None,
        changes: None,
        provenance: None,
        boot: publish::boot::Files {
            kernel: clone(&boot.kernel)?,
            initrd: clone(&boot.initrd)?,
            parameters: clone(&boot.parameters)?,
            debug_kernel: clone(&boot.debug_kernel)?,
        },
    };
    let published = publish::publish(&backend.ims, &backend.store, request, cancel).await?;
    if let Err(error) = verified(backend, &published, cancel).await {
        let (id, left) = (&published.image.id, Entry::uploading(&published.image, &backend.bucket));
        // Another command finishes this, if this one cannot.
        let noted = journal.save(&left);
        if publish::withdraw(&backend.ims, &backend.store, &backend.bucket, id, true).await
            && noted.is_ok()
        {
            let _ = journal.remove();
        }
        return Err(error);
    }
    let Published { image, artifacts, manifest, .. } = published;
    let (manifest, notes) = (Some(manifest), notes.clone());
    Ok(Imported { image, artifacts, manifest, existed: false, notes })
}

/// Looks at every object once more, now through the record.
async fn verified(
    backend: &Backend,
    published: &Published,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    let id = published.image.id.clone();
    match verify::image(backend, &id, cancel).await {
        Ok(report) if report.is_good() => Ok(()),
        Ok(report) => Err(Error::Wrong { id, problems: report.all_problems().join("; ") }),
        Err(source) => Err(Error::Verify { id, source }),
    }
}

/// The image that is there with the same name, architecture and content.
async fn find(
    backend: &Backend,
    name: &str,
    prepared: &Prepared,
    cancel: &CancellationToken,
) -> Result<Option<Imported>, Error> {
    let candidates = existing::candidates(backend, name, prepared.arch, cancel).await;
    let candidates = candidates.map_err(Error::List)?;
    if candidates.is_empty() {
        return Ok(None);
    }
    let content = content(prepared, cancel).await?;
    let found = existing::find(backend, candidates, &content, cancel).await?;
    Ok(found.map(|(image, artifacts)| Imported {
        image,
        artifacts,
        manifest: None,
        existed: true,
        notes: Vec::new(),
    }))
}

async fn content(prepared: &Prepared, cancel: &CancellationToken) -> Result<Content, Error> {
    let rootfs = prepared.rootfs.clone();
    let read = |source| Error::Read { path: rootfs.clone(), source };
    let mut files = vec![(Kind::Rootfs, File::open(&rootfs).map_err(read)?)];
    let boot = &prepared.boot;
    for (kind, file) in [
        (Kind::Kernel, &boot.kernel),
        (Kind::Initrd, &boot.initrd),
        (Kind::BootParameters, &boot.parameters),
        (Kind::DebugKernel, &boot.debug_kernel),
    ] {
        if let Some(file) = file {
            files.push((kind, file.try_clone().map_err(read)?));
        }
    }
    let summed = blocking(cancel, move |cancel| {
        let sum = |(kind, file): (Kind, File)| -> io::Result<(String, String)> {
            // Read by position: the descriptor's own may stand anywhere.
            let file =
                File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)))?;
            Ok((kind.media_type().to_owned(), digest::of(&file, cancel)?.md5))
        };
        files.into_iter().map(sum).collect::<io::Result<Content>>()
    });
    let mut content = summed.await?.map_err(read)?;
    content.sort();
    Ok(content)
}

/// Runs blocking work; a panic in it resumes here.
async fn blocking<T: Send + 'static>(
    cancel: &CancellationToken,
    work: impl FnOnce(&CancellationToken) -> T + Send + 'static,
) -> Result<T, Error> {
    let token = cancel.clone();
    let done = tokio::task::spawn_blocking(move || work(&token)).await;
    match done {
        Ok(done) => Ok(done),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Cancelled),
    }
}
