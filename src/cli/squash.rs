//! `squash`: packs a directory tree, in full or with reused blocks of a base image.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::ValueEnum;
use tokio_util::sync::CancellationToken;

use super::exit::{self, Exit};
use crate::contract::Engine;
use crate::telemetry::progress::{Meter, Unit};
use linux::cgroup;
use squashfs::codec::Settings;
use squashfs::external;
use squashfs::format::Compressor;
use squashfs::reuse::{self, Changes};
use squashfs::write::{self, Exclude, Options, Summary};

/// Pack a directory tree into a squashfs image
///
/// With --base, compressed blocks of unchanged files are copied from that image.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to pack
    root: PathBuf,

    /// Image to write; an existing file is replaced only when the new image is complete
    out: PathBuf,

    /// Image whose blocks are reused for unchanged content
    #[arg(long, value_name = "IMAGE")]
    base: Option<PathBuf>,

    /// Upper layer of the overlay on the base that ROOT was: only this directory is read
    #[arg(long, value_name = "DIR", requires = "base", conflicts_with = "quick_check")]
    upper: Option<PathBuf>,

    /// Work directory of that overlay, if it was mounted with index=on: it lists the other names
    /// of a changed hard link
    #[arg(long, value_name = "DIR", requires = "upper")]
    work: Option<PathBuf>,

    /// Assume that files with the same size and modification time as in the base are unchanged, as
    /// rsync does
    #[arg(long, requires = "base")]
    quick_check: bool,

    /// Compressor
    #[arg(long, value_name = "NAME", default_value = "gzip")]
    comp: Comp,

    /// Compression level: gzip 1-12, zstd 1-22, xz 0-9, lz4 0-12 (0: fast)
    #[arg(long, value_name = "N")]
    level: Option<i32>,

    /// Block size: a power of two from 4K to 1M
    #[arg(long, value_name = "SIZE", default_value = "128K", value_parser = block_size)]
    block: u32,

    /// Number of compression threads [default: CPUs that the cgroup allows]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Exclude this path below ROOT and everything below it; * and ? match within a component. May
    /// be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<OsString>,

    /// Timestamp of the image and latest timestamp of any file in it, in seconds since 1970
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    source_date_epoch: Option<u32>,

    /// Which packer to use: the built-in one, or mksquashfs with its defaults
    #[arg(long, value_name = "NAME", value_enum, default_value_t)]
    engine: Engine,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Comp {
    Gzip,
    Zstd,
    Xz,
    Lz4,
    Lzo,
}

pub fn run(args: &Args, cancel: &CancellationToken) -> anyhow::Result<Exit> {
    let meter = Meter::start("squash", Unit::Bytes, 0);
    if args.engine == Engine::Mksquashfs {
        let meter = Meter::start("squash", Unit::Percent, 100);
        with_mksquashfs(args, &meter, cancel)?;
        meter.finish();
        return Ok(exit::SUCCESS);
    }
    let options = args.options();
    let summary = match &args.base {
        None => write::pack(&args.root, &args.out, &options, &meter, cancel)?,
        Some(base) => {
            let changes = match &args.upper {
                Some(upper) => Changes::Overlay { upper, work: args.work.as_deref() },
                None if args.quick_check => Changes::Quick,
                None => Changes::Content,
            };
            let (root, out) = (&args.root, &args.out);
            let outcome = reuse::pack(base, changes, root, out, &options, &meter, cancel)?;
            let reused: u64 = outcome.ranges.iter().map(|range| range.length).sum();
            tracing::info!(
                bytes = reused,
                ranges = outcome.ranges.len(),
                "reused blocks of the \
                base"
            );
            outcome.summary
        }
    };
    meter.finish();
    log_summary(&summary);
    Ok(exit::SUCCESS)
}

impl Args {
    fn options(&self) -> Options {
        let compressor = match self.comp {
            Comp::Gzip => Compressor::Gzip,
            Comp::Zstd => Compressor::Zstd,
            Comp::Xz => Compressor::Xz,
            Comp::Lz4 => Compressor::Lz4,
            Comp::Lzo => Compressor::Lzo,
        };
        Options {
            settings: Settings { compressor, level: self.level, block_size: self.block },
            threads: self.threads,
            epoch: self.source_date_epoch,
            exclude: self.exclude.iter().map(|it| Exclude::new(it.as_bytes())).collect(),
        }
    }
}

/// For comparison: mksquashfs as the original IMS job image runs it.
fn with_mksquashfs(args: &Args, meter: &Meter, cancel: &CancellationToken) -> anyhow::Result<()> {
    external::pack(&external::Pack {
        root: &args.root,
        out: &args.out,
        threads: args.threads.unwrap_or_else(cgroup::cpus),
        memory: cgroup::memory(),
        meter,
        cancel,
    })?;
    Ok(())
}

fn log_summary(summary: &Summary) {
    tracing::info!(
        inodes = summary.inodes,
        content = summary.content,
        image = summary.bytes_used,
        duplicates = summary.duplicates,
        "packed"
    );
}

/// A size as people write it: `131072`, `128K`, `1M`.
fn block_size(text: &str) -> Result<u32, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'k']) {
        Some(digits) => (digits, 1 << 10),
        None => text.strip_suffix(['M', 'm']).map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    let size: Option<u32> = digits.parse().ok().and_then(|size: u32| size.checked_mul(unit));
    size.filter(|size| size.is_power_of_two() && (4096..=1 << 20).contains(size))
        .ok_or_else(|| "not a power of two from 4K to 1M".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_read_as_people_write_them() {
        assert_eq!(block_size("128K"), Ok(131_072));
        assert_eq!(block_size("131072"), Ok(131_072));
        assert_eq!(block_size("1M"), Ok(1 << 20));
        for bad in ["", "K", "3K", "2M", "2048", "-4K", "4194304K"] {
            assert!(block_size(bad).is_err(), "{bad}");
        }
    }
}
