//! `unsquash`: unpacks an image into a directory.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

use super::exit::{self, Exit};
use crate::telemetry::progress::{Meter, Unit};

/// Unpack a squashfs image into a new or empty directory
///
/// Owners, modes, times, extended attributes, devices and hard links are restored as far as this
/// process's privileges allow. Nothing is written outside the directory, whatever the image
/// contains.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Image to unpack
    image: PathBuf,

    /// Directory to unpack to; created if missing
    dir: PathBuf,

    /// Number of unpacking threads [default: CPUs that the cgroup allows]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

pub fn run(args: &Args, cancel: &CancellationToken) -> anyhow::Result<Exit> {
    let meter = Meter::start("unsquash", Unit::Bytes, 0);
    let summary = squashfs::unpack(&args.image, &args.dir, args.threads, &meter, cancel)?;
    meter.finish();
    if summary.owners_skipped {
        tracing::warn!("not running as root: all files belong to this user");
    }
    if summary.xattrs_skipped > 0 {
        tracing::warn!(count = summary.xattrs_skipped, "could not set some extended attributes");
    }
    tracing::info!(names = summary.names, "unpacked");
    Ok(exit::SUCCESS)
}
