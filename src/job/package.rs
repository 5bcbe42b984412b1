//! Packs and publishes an image root: boot files, squashfs, registration.
//!
//! `run` does this after `complete`; `ims-job-agent package` does only this, for example with the
//! tree of a failed job.

use std::fmt::{Display, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Job;
use super::base::{self, Base};
use super::fetch::Lookup;
use super::hold::Held;
use super::report::Reporter;
use crate::blocking::blocking;
use crate::contract::Engine;
use crate::contract::ImageNames;

use crate::publish::journal::Journal;
use crate::publish::{self, Published, boot};
use crate::telemetry::chain;
use crate::telemetry::progress::{Meter, Unit};
use crate::telemetry::status::Board;
use crate::workspace;
use ims_client::Link;
use ims_client::{Arch, Status};
use linux::cgroup;
use linux::disk::human;
use s3_client::Store;
use squashfs::reuse::{self, Range};
use squashfs::{Options, external};

/// What is packaged, and under which names.
#[derive(Debug, Clone)]
pub(super) struct Package {
    pub root: PathBuf,
    /// The agent's directory: what is packed stays there when publishing fails.
    pub layout: workspace::Layout,
    pub engine: Engine,
    /// What the root was made from.
    pub base: Option<Arc<Base>>,
    pub image: ImageNames,
}

/// Where an image goes.
#[derive(Debug, Clone)]
pub(super) struct Destination {
    pub image_name: String,
    pub arch: Arch,
    pub bucket: String,
    /// The job whose result the image becomes.
    pub job_id: Option<String>,
}

/// An image that is ready to be published.
#[derive(Debug)]
pub(super) struct Packed {
    pub rootfs: PathBuf,
    /// Which bytes of the base are in it.
    pub ranges: Vec<Range>,
    pub boot: boot::Files,
    pub changes: Option<PathBuf>,
    pub journal: Journal,
}

/// Packs and publishes the root that a job has made, without users who could come back.
pub(super) async fn package_job(
    job: &Job,
    store: &Store,
    package: &Package,
) -> anyhow::Result<Published> {
    job.reporter.enter_if_possible(Status::PackagingArtifacts).await;
    let (packed, base) = package.pack_for(job, store).await?;
    let (to, stop) = (Destination::of(job), &job.reporter.stop);
    match Box::pin(to.publish(&packed, base.as_ref(), &job.reporter, store, stop)).await {
        Ok(published) => Ok(published),
        Err(error) => {
            Box::pin(Held::begin(job, error)?.publish(&packed, base.as_ref(), stop)).await
        }
    }
}

/// For a POSIX shell. All names are said, and the architecture: a default could be another file of the
/// root, and would be published.
pub(super) fn retry_command(root: &Path, image: &ImageNames, job_id: Uuid) -> String {
    let options: [(&str, &dyn Display); 7] = [
        ("root", &root.display()),
        ("name", &image.name),
        ("job-id", &job_id),
        ("kernel", &image.kernel),
        ("initrd", &image.initrd),
        ("kernel-parameters", &image.kernel_parameters),
        ("arch", &image.arch),
    ];
    let mut command = "ims-job-agent package".to_owned();
    for (option, value) in options {
        let value = value.to_string();
        let quoted = shlex::try_quote(&value).expect("no variable and no path holds a NUL byte");
        // Joined by `=`, a value may begin with a dash.
        write!(command, " --{option}={quoted}").expect("a String takes all");
    }
    command
}

/// Packs the root and publishes it. Nothing is left in the store or in IMS when this fails. The root
/// is not changed, but for the permissions of kiwi's `/image` (contract section 4.2).
pub(super) async fn package(
    package: &Package,
    to: &Destination,
    reporter: &Reporter,
    store: &Store,
) -> anyhow::Result<Published> {
    let base = async {
        package.base.as_ref()?;
        to.base(reporter, store).await
    };
    let (packed, base) = package.pack(&reporter.board, &reporter.stop, base).await?;
    to.publish(&packed, base.as_ref(), reporter, store, &reporter.stop).await
}

impl Package {
    /// Packs the root of a job.
    pub async fn pack_for(
        &self,
        job: &Job,
        store: &Store,
    ) -> anyhow::Result<(Packed, Option<Link>)> {
        let base = async {
            self.base.as_ref()?;
            Destination::of(job).base(&job.reporter, store).await
        };
        self.pack(&job.reporter.board, &job.reporter.stop, base).await
    }

    /// Packs the root. `base` is where the image that the root was made from lies in the store, and
    /// given back.
    pub async fn pack(
        &self,
        board: &Board,
        stop: &CancellationToken,
        base: impl Future<Output = Option<Link>>,
    ) -> anyhow::Result<(Packed, Option<Link>)> {
        let boot = blocking({
            let package = self.clone();
            move || {
                workspace::close_kiwi_directory(&package.root)?;
                boot_files(&package)
            }
        })
        .await?;
        let (base, ranges) = tokio::join!(base, squash(self, board, stop));
        let ranges = ranges?;
        let changes = changes(self, base.as_ref(), &ranges).await;
        let (rootfs, journal) = (self.layout.result(), Journal::at(self.layout.publication()));
        Ok((Packed { rootfs, ranges, boot, changes, journal }, base))
    }
}

impl Package {
    pub fn boot_names(&self) -> boot::Names {
        boot::Names {
            kernel: self.image.kernel.clone(),
            initrd: self.image.initrd.clone(),
            parameters: self.image.kernel_parameters.clone(),
            debug_kernel: None,
        }
    }
}

impl Destination {
    pub fn of(job: &Job) -> Self {
        Self {
            image_name: job.contract.image.name.clone(),
            arch: job.contract.image.arch,
            bucket: job.contract.s3.bucket.clone(),
            job_id: Some(job.contract.job_id.to_string()),
        }
    }

    /// The object of the base in the store, if the job's records name it.
    pub async fn base(&self, reporter: &Reporter, store: &Store) -> Option<Link> {
        base::link(&Lookup {
            ims: reporter.ims(),
            store: store.clone(),
            job_id: self.job_id.clone()?,
            stop: reporter.stop.clone(),
        })
        .await
    }

    pub async fn publish(
        &self,
        packed: &Packed,
        base: Option<&Link>,
        reporter: &Reporter,
        store: &Store,
        stop: &CancellationToken,
    ) -> anyhow::Result<Published> {
        let reuse = match base {
            Some(base) => base::in_store(store, base, &packed.ranges, stop).await,
            None => None,
        };
        let request = publish::Request {
            image_name: self.image_name.clone(),
            arch: self.arch,
            bucket: self.bucket.clone(),
            job_id: self.job_id.clone(),
            rootfs: packed.rootfs.clone(),
            reuse,
            boot: packed.boot.try_clone().context("cannot open the boot files once more")?,
            changes: packed.changes.clone(),
            provenance: None,
            journal: packed.journal.clone(),
        };
        publish::publish(&reporter.ims(), store, request, stop)
            .await
            .context("cannot publish the image")
    }
}

/// Opened before the long work, so that a missing kernel is known at once.
fn boot_files(package: &Package) -> anyhow::Result<boot::Files> {
    boot::find(&package.root, &package.boot_names())
        .context("the image root has no usable boot files")
}

/// Packs the root, and returns which bytes of the base are in the new image.
async fn squash(
    package: &Package,
    board: &Board,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<Range>> {
    let meter = match package.engine {
        Engine::Own => Meter::start("squash", Unit::Bytes, 0),
        Engine::Mksquashfs => Meter::start("squash", Unit::Percent, 100),
    };
    board.watch(&meter);
    let (package, stop) = (package.clone(), stop.clone());
    blocking(move || {
        let out = package.layout.result();
        let packed = match package.engine {
            Engine::Own => pack(package.base.as_deref(), &package.root, &out, &meter, &stop),
            Engine::Mksquashfs => pack_with_mksquashfs(&package.root, &out, &meter, &stop),
        };
        let ranges = packed.with_context(|| format!("cannot pack {}", package.root.display()))?;
        meter.finish();
        let size = out.metadata().map_or(0, |found| found.len());
        tracing::info!(size = %human(size), "the image is packed");
        Ok(ranges)
    })
    .await
}

/// Packs `root` by our own engine, on the blocks of `base`. Blocks.
pub(super) fn pack(
    base: Option<&Base>,
    root: &Path,
    out: &Path,
    meter: &Meter,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<Range>> {
    let options = Options::default();
    let packed = match base {
        Some(base) => reuse::pack(&base.image, base.changes(), root, out, &options, meter, stop)?,
        None => squashfs::pack(root, out, &options, meter, stop)?.into(),
    };
    if packed.summary.xattrs_skipped > 0 {
        tracing::warn!(
            count = packed.summary.xattrs_skipped,
            "squashfs stores only the extended attributes user, trusted and security: skipped \
             others"
        );
    }
    let reused: u64 = packed.ranges.iter().map(|range| range.length).sum();
    tracing::info!(reused = %human(reused), inodes = packed.summary.inodes, "packed with the \
        built-in engine");
    Ok(packed.ranges)
}

fn pack_with_mksquashfs(
    root: &Path,
    out: &Path,
    meter: &Meter,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<Range>> {
    external::pack(&external::Pack {
        root,
        out,
        threads: cgroup::cpus(),
        memory: cgroup::memory(),
        meter,
        cancel: stop,
    })?;
    Ok(Vec::new())
}

/// The file with the changes of the user. The image does not depend on it.
async fn changes(package: &Package, base: Option<&Link>, ranges: &[Range]) -> Option<PathBuf> {
    let from = package.base.clone()?;
    let (layout, ranges) = (package.layout.clone(), ranges.to_vec());
    let link = base.cloned();
    let path = layout.changes();
    let written = blocking({
        let path = path.clone();
        move || base::write_changes(&from.image, &layout.result(), &ranges, link.as_ref(), &path)
    })
    .await;
    match written {
        Ok(_) => Some(path),
        Err(error) => {
            tracing::warn!("no changes.json will be published: {}", chain(error.as_ref()));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_for_another_try_says_all_and_is_safe_to_paste() {
        let image = ImageNames {
            name: "it's $(touch OWNED)".into(),
            kernel: "-odd kernel".into(),
            initrd: "initrd-2".into(),
            kernel_parameters: "parameters".into(),
            arch: Arch::Aarch64,
        };
        let command = retry_command(Path::new("/mnt/an image/image-root"), &image, Uuid::nil());
        let words = shlex::split(&command).unwrap();
        assert_eq!(
            words,
            [
                "ims-job-agent",
                "package",
                "--root=/mnt/an image/image-root",
                "--name=it's $(touch OWNED)",
                "--job-id=00000000-0000-0000-0000-000000000000",
                "--kernel=-odd kernel",
                "--initrd=initrd-2",
                "--kernel-parameters=parameters",
                "--arch=aarch64",
            ]
        );
    }
}
