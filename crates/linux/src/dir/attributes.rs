//! Owner, mode, times and extended attributes of entries, links not followed.

use std::io;

use nix::fcntl::AtFlags;
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat};

use super::{Dir, Name};
use crate::stat::FileKind;
use crate::xattrs::{self, Xattrs};

/// A time: seconds since 1970 and nanoseconds.
pub type Time = (i64, i64);

/// Access and modification time of a directory.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    access: Time,
    modification: Time,
}

/// Equal if nothing was added or removed between them; looking at it changes the access time only.
impl PartialEq for Times {
    fn eq(&self, other: &Times) -> bool {
        self.modification == other.modification
    }
}

impl Dir {
    /// The extended attributes of `name` itself.
    pub fn xattrs(&self, name: &(impl Name + ?Sized)) -> io::Result<Xattrs> {
        xattrs::of(&self.path_of(name))
    }

    /// The extended attributes of this directory.
    pub fn xattrs_self(&self) -> io::Result<Xattrs> {
        self.xattrs(".")
    }

    /// Sets an extended attribute of `name` itself.
    pub fn set_xattr(
        &self,
        name: &(impl Name + ?Sized),
        attribute: &[u8],
        value: &[u8],
    ) -> io::Result<()> {
        xattrs::set(&self.path_of(name), attribute, value)
    }

    /// Gives `name` itself to an owner and a group.
    pub fn set_owner(&self, name: &(impl Name + ?Sized), uid: u32, gid: u32) -> io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        Ok(fchownat(&self.0, name.as_name(), uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Sets the permission bits of `name`, with set-id and sticky. It must be known to be no link: the
    /// kernel's call has no way to say so.
    pub fn set_mode(&self, name: &(impl Name + ?Sized), mode: u32) -> io::Result<()> {
        let mode = Mode::from_bits_truncate(mode);
        Ok(fchmodat(&self.0, name.as_name(), mode, FchmodatFlags::FollowSymlink)?)
    }

    /// Sets owner, group and mode of `name`; a link keeps its mode.
    pub fn set_owner_mode(
        &self,
        name: &(impl Name + ?Sized),
        uid: u32,
        gid: u32,
        mode: u32,
    ) -> io::Result<()> {
        self.set_owner(name, uid, gid)?;
        match FileKind::of(self.stat(name)?.st_mode) {
            FileKind::Symlink => Ok(()),
            _ => self.set_mode(name, mode),
        }
    }

    /// Sets the modification time of `name` itself; the access time stays.
    pub fn set_time(&self, name: &(impl Name + ?Sized), time: Time) -> io::Result<()> {
        self.set(name, TimeSpec::UTIME_OMIT, spec(time))
    }

    /// Sets access and modification time of `name` itself to the same.
    pub fn set_times(&self, name: &(impl Name + ?Sized), time: Time) -> io::Result<()> {
        self.set(name, spec(time), spec(time))
    }

    fn set(
        &self,
        name: &(impl Name + ?Sized),
        access: TimeSpec,
        modification: TimeSpec,
    ) -> io::Result<()> {
        let flags = UtimensatFlags::NoFollowSymlink;
        Ok(utimensat(&self.0, name.as_name(), &access, &modification, flags)?)
    }

    /// The modification time of this directory.
    pub fn time(&self) -> io::Result<Time> {
        let stat = self.stat_self()?;
        Ok((stat.st_mtime, stat.st_mtime_nsec))
    }

    /// Sets the modification time of this directory.
    pub fn set_own_time(&self, time: Time) -> io::Result<()> {
        self.set_time(".", time)
    }

    /// Access and modification time of this directory.
    pub fn times(&self) -> io::Result<Times> {
        let stat = self.stat_self()?;
        Ok(Times {
            access: (stat.st_atime, stat.st_atime_nsec),
            modification: (stat.st_mtime, stat.st_mtime_nsec),
        })
    }

    /// Gives this directory times that it had before.
    pub fn restore_times(&self, times: &Times) -> io::Result<()> {
        self.set(".", spec(times.access), spec(times.modification))
    }
}

fn spec((seconds, nanoseconds): Time) -> TimeSpec {
    TimeSpec::new(seconds, nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn links_get_owner_and_time_of_their_own_and_lead_nowhere() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("file"), "").unwrap();
        symlink("file", temp.path().join("link")).unwrap();
        let before = temp.path().join("file").metadata().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        dir.set_owner_mode("link", 12, 34, 0o600).unwrap();
        dir.set_times("link", (1_000_000_000, 7)).unwrap();
        let link = dir.stat("link").unwrap();
        assert_eq!(
            (link.st_uid, link.st_gid, link.st_mtime, link.st_atime_nsec),
            (12, 34, 1_000_000_000, 7)
        );
        let after = temp.path().join("file").metadata().unwrap();
        assert_eq!((before.uid(), before.mode()), (after.uid(), after.mode()));
        assert_eq!(before.modified().unwrap(), after.modified().unwrap());
    }

    #[test]
    fn a_directory_gets_its_times_back() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        dir.set_times(".", (1_000_000_000, 0)).unwrap();
        let before = dir.times().unwrap();
        dir.make_dir("new", 0o755).unwrap();
        assert_ne!(dir.times().unwrap(), before);
        dir.restore_times(&before).unwrap();
        assert_eq!(dir.times().unwrap(), before);
        assert_eq!(dir.stat_self().unwrap().st_atime, 1_000_000_000);
    }
}
