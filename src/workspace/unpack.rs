//! The image unpacked into the image root, for containers that cannot mount.

use std::io;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::Error;
use crate::telemetry::progress::Meter;
use linux::{cgroup, disk, xattrs};
use squashfs::external;
use squashfs::format::Superblock;

pub(super) struct Unpack<'a> {
    pub image: &'a Path,
    pub superblock: &'a Superblock,
    pub root: &'a Path,
    /// A directory on the filesystem of `root` to try things in.
    pub scratch: &'a Path,
    pub meter: &'a Meter,
    pub cancel: &'a CancellationToken,
}

/// Unpacks; what the filesystem or our privileges cannot keep of the image is an error.
pub(super) fn unpack(unpack: &Unpack) -> Result<(), Error> {
    if has_xattrs(unpack.superblock) {
        check_xattrs(unpack.scratch)?;
    }
    external::unpack(&external::Unpack {
        image: unpack.image,
        root: unpack.root,
        threads: cgroup::cpus(),
        meter: unpack.meter,
        cancel: unpack.cancel,
    })
    .map_err(Error::Unpack)
}

/// An image without extended attributes has no table of them.
fn has_xattrs(superblock: &Superblock) -> bool {
    superblock.xattr_table != u64::MAX
}

/// An attribute of each class that squashfs stores, with a value that the kernel accepts.
const PROBES: [(&str, &[u8]); 3] = [
    ("user.ims-job-agent", b"1"),
    // `struct vfs_cap_data` of revision 2 with no capability in it.
    ("security.capability", &[0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
    ("trusted.ims-job-agent", b"1"),
];

/// Tries what can be kept. That none can is an error here; if only some classes are lost, unpacking
/// finds out whether the image has any of them, and the log says now what to expect.
fn check_xattrs(scratch: &Path) -> Result<(), Error> {
    let lost =
        lost_classes(scratch).map_err(|source| Error::io("make a file in", scratch, source))?;
    let filesystem = || disk::filesystem(scratch).unwrap_or_else(|_| "unknown".into());
    if lost.len() == PROBES.len() {
        return Err(Error::NoXattrs { path: scratch.into(), filesystem: filesystem() });
    }
    if !lost.is_empty() {
        tracing::warn!(
            classes = %lost.join(" "),
            filesystem = %filesystem(),
            "cannot set extended attributes of some classes here: unpacking fails if the image \
             has any of them (trusted, and security other than capability, need CAP_SYS_ADMIN)"
        );
    }
    Ok(())
}

fn lost_classes(scratch: &Path) -> io::Result<Vec<&'static str>> {
    let file = tempfile::NamedTempFile::new_in(scratch)?;
    let lost = PROBES
        .iter()
        .filter(|(name, value)| xattrs::set(file.path(), name.as_bytes(), value).is_err());
    Ok(lost.map(|(name, _)| name.split('.').next().unwrap_or(name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_filesystem_keeps_all_classes_and_proc_none() {
        let lost = lost_classes(&std::env::temp_dir()).unwrap();
        assert!(lost.is_empty(), "the temp directory loses {lost:?}: this test needs root");
        assert!(lost_classes(Path::new("/proc")).is_err());
    }
}
