//! Packing a tree with `mksquashfs`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio_util::sync::CancellationToken;

use super::version::installed;
use super::{Error, bar, free_beside, says_full};
use linux::{mountinfo, process};
use progress::Progress;

/// The least that mksquashfs gets to work with; it refuses much less.
const LEAST_MEMORY: u64 = 128 << 20;

/// A tree to be packed.
pub struct Pack<'a> {
    /// The tree.
    pub root: &'a Path,
    /// The squashfs file; it is there only once it is complete.
    pub out: &'a Path,
    /// Compressing threads.
    pub threads: usize,
    /// Bytes this process may use, if that is bounded: mksquashfs takes a quarter.
    pub memory: Option<u64>,
    /// Set to percent.
    pub meter: &'a dyn Progress,
    /// Ends the tool early.
    pub cancel: &'a CancellationToken,
}

/// Packs: squashfs 4.0, gzip, 128 KiB blocks, extended attributes. Returns the
/// size in bytes.
///
/// Warnings of mksquashfs are logged; a file that cannot be read is an error, not an empty file in
/// the result. `SOURCE_DATE_EPOCH` works, since the environment is passed on. On an error nothing
/// is left at `out`.
pub fn pack(pack: &Pack) -> Result<u64, Error> {
    installed("mksquashfs")?;
    refuse_mounts(pack.root)?;
    let partial = partial(pack.out);
    let result = run(pack, &partial).and_then(|()| {
        let io = |source| Error::Io { what: "finish", path: pack.out.into(), source };
        let size = partial.metadata().map_err(io)?.len();
        std::fs::rename(&partial, pack.out).map_err(io)?;
        Ok(size)
    });
    if result.is_err() {
        remove_if_there(&partial)?;
    }
    result
}

fn partial(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { what: "remove", path: path.into(), source })
        }
        _ => Ok(()),
    }
}

/// Neither a forgotten `/proc` nor a user's mount belongs in an image.
fn refuse_mounts(root: &Path) -> Result<(), Error> {
    let io = |source| Error::Io { what: "list mounts in", path: root.into(), source };
    let mounts: Vec<PathBuf> =
        mountinfo::below(root).map_err(io)?.into_iter().map(|mount| mount.point).collect();
    if mounts.is_empty() { Ok(()) } else { Err(Error::MountedBelow { root: root.into(), mounts }) }
}

fn run(pack: &Pack, partial: &Path) -> Result<(), Error> {
    // With -noappend an old file is overwritten, but only if it looks like one of the tool's own.
    remove_if_there(partial)?;
    let free_before = free_beside(pack.out);
    let mut command = command(pack, partial);
    let output = process::run_on_terminal(&mut command, pack.cancel, |line| {
        if let Some(percent) = bar::percent(line) {
            pack.meter.set(percent);
        }
    })
    .map_err(|error| explain(error, pack.out, free_before))?;
    if !output.stderr.is_empty() {
        tracing::warn!(messages = %output.stderr, "mksquashfs printed warnings");
    }
    pack.meter.set(100);
    Ok(())
}

fn command(pack: &Pack, partial: &Path) -> Command {
    let mut command = Command::new("mksquashfs");
    command.arg(pack.root).arg(partial);
    command.args(["-noappend", "-comp", "gzip", "-b", "131072", "-xattrs", "-exit-on-error"]);
    command.arg("-processors").arg(pack.threads.max(1).to_string());
    if let Some(memory) = pack.memory {
        let mib = (memory / 4).max(LEAST_MEMORY) >> 20;
        command.arg("-mem").arg(format!("{mib}M"));
    }
    command
}

fn explain(source: process::Error, out: &Path, free_before: u64) -> Error {
    match &source {
        process::Error::Cancelled { .. } => Error::Cancelled,
        process::Error::Failed { stderr, .. } if says_full(stderr) => {
            Error::DiskFull { path: out.into(), free_before, source: Box::new(source) }
        }
        _ => Error::Failed { what: "packing the image root", source },
    }
}
