//! `diff`: prints the differences between two images.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use super::exit::{self, Exit};
use squashfs::diff::diff;

/// Show the differences between two squashfs images
///
/// One line per difference: - removed, + added, ~ changed (content, mode, owner, xattrs). Times
/// are not compared.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Old image
    old: PathBuf,

    /// New image
    new: PathBuf,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<Exit> {
    let diff = diff(&args.old, &args.new, &[])?;
    let mut out = BufWriter::new(io::stdout().lock());
    let written = if args.json {
        serde_json::to_writer_pretty(&mut out, &diff)
            .map_err(io::Error::from)
            .and_then(|()| out.write_all(b"\n"))
    } else {
        write!(out, "{diff}")
    };
    match written.and_then(|()| out.flush()) {
        // `| head` has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(exit::SUCCESS),
    }
}
