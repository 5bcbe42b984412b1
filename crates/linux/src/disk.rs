//! How much room a filesystem has, and which kind it is.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::statfs::statfs;
use nix::sys::statvfs::{FsFlags, Statvfs, fstatvfs, statvfs};

/// Figures of a filesystem (statvfs(3)); blocks are counted in units of `fragment_size`.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Bytes that are best read and written at once.
    pub block_size: u64,
    /// Bytes of a block.
    pub fragment_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Blocks that root may still write.
    pub blocks_free: u64,
    /// Blocks that others may still write.
    pub blocks_available: u64,
    /// Inodes in all.
    pub files: u64,
    /// Inodes that root may still make.
    pub files_free: u64,
    /// Inodes that others may still make.
    pub files_available: u64,
    /// The filesystem's own id.
    pub id: u64,
    /// Mounted read-only.
    pub read_only: bool,
    /// Mounted without set-id bits.
    pub no_setuid: bool,
    /// Bytes that a name may have.
    pub name_max: u64,
}

impl Figures {
    /// Of the filesystem that holds `path`.
    pub fn of(path: &Path) -> io::Result<Figures> {
        Ok(statvfs(path)?.into())
    }

    /// Of the filesystem that holds an open file.
    pub fn of_file(file: impl AsFd) -> io::Result<Figures> {
        Ok(fstatvfs(file)?.into())
    }
}

impl From<Statvfs> for Figures {
    fn from(found: Statvfs) -> Figures {
        Figures {
            block_size: found.block_size(),
            fragment_size: found.fragment_size(),
            blocks: found.blocks(),
            blocks_free: found.blocks_free(),
            blocks_available: found.blocks_available(),
            files: found.files(),
            files_free: found.files_free(),
            files_available: found.files_available(),
            id: found.filesystem_id(),
            read_only: found.flags().contains(FsFlags::ST_RDONLY),
            no_setuid: found.flags().contains(FsFlags::ST_NOSUID),
            name_max: found.name_max(),
        }
    }
}

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
    let figures = Figures::of(path)?;
    Ok(Space {
        free: figures.blocks_available * figures.fragment_size,
        total: figures.blocks * figures.fragment_size,
        free_inodes: (figures.files > 0).then_some(figures.files_available),
    })
}

/// Bytes that root may still write to the filesystem of `file`.
pub fn free_bytes(file: impl AsFd) -> io::Result<u64> {
    let figures = Figures::of_file(file)?;
    Ok(figures.blocks_free * figures.fragment_size)
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
