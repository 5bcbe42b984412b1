//! Checks the free space on the volume, before a user can log in.

use std::path::Path;

use super::{Error, Kind};
use linux::disk::{self, Space, human};
use squashfs::format::Superblock;

/// What packages of some size bring with them, on top of what the image has.
const USUAL_CHANGES: u64 = 512 << 20;

/// How much larger than its squashfs a tree usually is (gzip on image roots: 2.5 to 3.9).
const USUAL_RATIO: u64 = 4;

/// How the room on the volume compares to what the job will need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Room {
    pub free: u64,
    /// What a job on this image usually takes.
    pub usual: u64,
}

impl Room {
    pub fn is_tight(&self) -> bool {
        self.free < self.usual
    }

    pub(super) fn warn_if_tight(&self) {
        if self.is_tight() {
            tracing::warn!(
                free = %human(self.free),
                usually_needed = %human(self.usual),
                "little space left on the image volume; packaging may run out of space"
            );
        }
    }
}

/// Compares the room in `parent` with the figures of the image's superblock; an error if the job
/// cannot succeed.
pub fn check_space(parent: &Path, superblock: &Superblock, kind: Kind) -> Result<Room, Error> {
    let space =
        disk::space(parent).map_err(|source| Error::io("check free space in", parent, source))?;
    judge(parent, space, superblock, kind)
}

fn judge(parent: &Path, space: Space, superblock: &Superblock, kind: Kind) -> Result<Room, Error> {
    let packed = superblock.bytes_used;
    // The least: a result of the image's size, and a tree that is no smaller than its squashfs.
    let (needed, usual, reason) = match kind {
        Kind::Overlay => (packed, packed + packed / 4 + USUAL_CHANGES, "for the packed result"),
        Kind::Unpacked => (
            packed.saturating_mul(2),
            packed.saturating_mul(USUAL_RATIO + 1) + USUAL_CHANGES,
            "for the unpacked tree and the packed result",
        ),
    };
    let path = || parent.into();
    if space.free < needed {
        return Err(Error::NoRoom { path: path(), free: space.free, needed, reason });
    }
    let inodes = u64::from(superblock.inode_count);
    match space.free_inodes {
        Some(free) if kind == Kind::Unpacked && free < inodes => {
            Err(Error::NoInodes { path: path(), free, needed: inodes })
        }
        _ => Ok(Room { free: space.free, usual }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squashfs::format::superblock::Compressor;

    fn superblock(bytes_used: u64) -> Superblock {
        Superblock {
            inode_count: 1000,
            mkfs_time: 0,
            block_size: 131_072,
            fragment_count: 0,
            compressor: Compressor::Gzip,
            flags: 0,
            id_count: 1,
            root_inode: 0,
            bytes_used,
            id_table: 0,
            xattr_table: 0,
            inode_table: 0,
            directory_table: 0,
            fragment_table: 0,
            export_table: 0,
        }
    }

    fn judge_gib(free: u64, free_inodes: Option<u64>, kind: Kind) -> Result<Room, Error> {
        let space = Space { free: free << 30, total: 100 << 30, free_inodes };
        judge(Path::new("/mnt/image"), space, &superblock(4 << 30), kind)
    }

    #[test]
    fn an_overlay_needs_room_for_the_result_and_a_tree_for_itself_too() {
        assert!(judge_gib(3, None, Kind::Overlay).is_err());
        assert!(judge_gib(5, None, Kind::Overlay).unwrap().is_tight());
        assert!(!judge_gib(6, None, Kind::Overlay).unwrap().is_tight());
        assert!(judge_gib(7, None, Kind::Unpacked).is_err());
        assert!(judge_gib(9, None, Kind::Unpacked).unwrap().is_tight());
        assert!(!judge_gib(30, None, Kind::Unpacked).unwrap().is_tight());
    }

    #[test]
    fn the_error_has_numbers_for_people() {
        let text = judge_gib(3, None, Kind::Overlay).unwrap_err().to_string();
        assert!(text.contains("3.00 GiB free") && text.contains("4.00 GiB needed"), "{text}");
    }

    #[test]
    fn inodes_count_where_they_are_bounded() {
        assert!(judge_gib(30, Some(999), Kind::Unpacked).is_err());
        assert!(judge_gib(30, Some(1000), Kind::Unpacked).is_ok());
        assert!(judge_gib(30, Some(10), Kind::Overlay).is_ok());
    }
}
