//! How much room a filesystem has, and which kind it is.
//!
//! Called by `workspace` before a user is let in and by `squashfs` when a write fails.

use std::io;
use std::path::Path;

use nix::sys::statfs::statfs;
use nix::sys::statvfs::statvfs;

/// Room on the filesystem that holds a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process may still write.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
    /// Files that can still be made; `None` where the filesystem makes inodes as it needs them.
    pub free_inodes: Option<u64>,
}

/// Room on the filesystem that holds `path`.
pub fn space(path: &Path) -> io::Result<Space> {
    let stat = statvfs(path)?;
    let unit = stat.fragment_size();
    Ok(Space {
        free: stat.blocks_available() * unit,
        total: stat.blocks() * unit,
        free_inodes: (stat.files() > 0).then(|| stat.files_available()),
    })
}

/// The kind of filesystem that holds `path`, as mount(8) names it; the magic number if unknown.
pub fn filesystem(path: &Path) -> io::Result<String> {
    let magic = statfs(path)?.filesystem_type().0 as u64 & 0xffff_ffff;
    Ok(NAMES
        .iter()
        .find(|(number, _)| *number == magic)
        .map_or_else(|| format!("{magic:#x}"), |(_, name)| (*name).into()))
}

/// `include/uapi/linux/magic.h`: what an image volume may be on.
const NAMES: [(u64, &str); 9] = [
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x794c_7630, "overlay"),
    (0x6969, "nfs"),
    (0x00c3_6400, "ceph"),
    (0x6573_5546, "fuse"),
    (0x7371_7368, "squashfs"),
];

/// A number of bytes for people, `1.50 GiB`.
pub fn human(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_has_no_room_and_the_temp_directory_has() {
        assert_eq!(space(Path::new("/proc")).unwrap().free, 0);
        let space = space(&std::env::temp_dir()).unwrap();
        assert!(0 < space.free && space.free <= space.total);
    }

    #[test]
    fn a_missing_path_is_an_error() {
        assert!(space(Path::new("/nowhere")).is_err());
        assert!(filesystem(Path::new("/nowhere")).is_err());
    }

    #[test]
    fn bytes_are_written_for_people() {
        assert_eq!(human(3 << 29), "1.50 GiB");
    }
}
