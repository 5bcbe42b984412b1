//! From an image root to a registered image: boot files, squashfs, publishing.
//!
//! What `run` does after `complete`, and what `ims-job-agent package` does alone, for example on a
//! tree that a failed job has left.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::report::Reporter;
use crate::contract::ImageNames;
use crate::os::cgroup;
use crate::os::disk::human;
use crate::publish::{self, Published, boot};
use crate::s3::Store;
use crate::squashfs::external;
use crate::telemetry::progress::{Meter, Unit};
use crate::workspace;

/// What is packaged, and under which names.
#[derive(Debug, Clone)]
pub(super) struct Package {
    pub root: PathBuf,
    /// Where the squashfs is written; it stays there when publishing fails.
    pub squashfs: PathBuf,
    pub image: ImageNames,
    pub bucket: String,
    /// The job whose result the image becomes.
    pub job_id: Option<String>,
}

/// Packs the root and publishes it. Nothing is left in the store or in IMS when this fails. The root
/// is not changed, but for the permissions of kiwi's `/image` (contract section 4.2).
pub(super) async fn package(
    package: &Package,
    reporter: &Reporter,
    store: &Store,
) -> anyhow::Result<Published> {
    let boot = blocking({
        let package = package.clone();
        move || {
            workspace::close_kiwi_directory(&package.root)?;
            boot_files(&package)
        }
    })
    .await?;
    squash(package, reporter).await?;
    let request = publish::Request {
        image_name: package.image.name.clone(),
        arch: package.image.arch,
        bucket: package.bucket.clone(),
        job_id: package.job_id.clone(),
        rootfs: package.squashfs.clone(),
        boot,
    };
    publish::publish(&reporter.ims, store, request, &reporter.stop)
        .await
        .context("cannot publish the image")
}

/// Opened before the long work, so that a missing kernel is known at once.
fn boot_files(package: &Package) -> anyhow::Result<boot::Files> {
    let names = boot::Names {
        kernel: package.image.kernel.clone(),
        initrd: package.image.initrd.clone(),
        parameters: package.image.kernel_parameters.clone(),
        debug_kernel: None,
    };
    boot::find(&package.root, &names, package.image.arch)
        .context("the image root has no usable boot files")
}

async fn squash(package: &Package, reporter: &Reporter) -> anyhow::Result<()> {
    let meter = Meter::start("squash", Unit::Percent, 100);
    reporter.board.watch(&meter);
    let (root, out) = (package.root.clone(), package.squashfs.clone());
    let stop = reporter.stop.clone();
    blocking(move || pack(&root, &out, &meter, &stop)).await
}

fn pack(root: &Path, out: &Path, meter: &Meter, stop: &CancellationToken) -> anyhow::Result<()> {
    let pack = external::Pack {
        root,
        out,
        threads: cgroup::cpus(),
        memory: cgroup::memory(),
        meter,
        cancel: stop,
    };
    let size = external::pack(&pack).with_context(|| format!("cannot pack {}", root.display()))?;
    meter.finish();
    tracing::info!(size = %human(size), "the image is packed");
    Ok(())
}

/// Runs blocking work beside the async rooms; a panic in it is an error.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("internal error, please report it")?
}
