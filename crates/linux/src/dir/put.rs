//! Replacing entries, so that the old one is there until the new one is complete.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::renameat;

use super::{Dir, Name};
use crate::entry::Attributes;

impl Dir {
    /// Puts a regular file in the place of `name`, whatever was there (but not a directory).
    pub fn put_file(
        &self,
        name: &(impl Name + ?Sized),
        content: &[u8],
        attributes: &Attributes,
    ) -> io::Result<()> {
        self.put(name, |temporary| {
            self.make_file(temporary)?.write_all(content)?;
            attributes.apply(self, temporary)
        })
    }

    /// Puts a symbolic link in the place of `name`.
    pub fn put_link(
        &self,
        name: &(impl Name + ?Sized),
        target: &Path,
        attributes: &Attributes,
    ) -> io::Result<()> {
        self.put(name, |temporary| {
            self.make_symlink(temporary, target)?;
            attributes.apply(self, temporary)
        })
    }

    fn put(
        &self,
        name: &(impl Name + ?Sized),
        make: impl Fn(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let temporary = PathBuf::from(format!(".ims-job-agent-{}", uuid::Uuid::new_v4().simple()));
        let made = make(&temporary)
            .and_then(|()| Ok(renameat(&self.0, &temporary, &self.0, name.as_name())?));
        if made.is_err() {
            let _ = self.remove(&temporary);
        }
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_file_replaces_a_link_instead_of_being_written_through_it() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("victim"), "untouched").unwrap();
        symlink("victim", temp.path().join("link")).unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        dir.put_file("link", b"new", &Attributes::root_owned(0o644)).unwrap();
        assert_eq!(std::fs::read(temp.path().join("victim")).unwrap(), b"untouched");
        assert_eq!(dir.read("link", 10).unwrap(), b"new");
        assert_eq!(dir.names().unwrap().iter().collect::<Vec<_>>(), ["link", "victim"]);
    }

    #[test]
    fn a_failed_put_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("taken")).unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        dir.put_file("taken", b"", &Attributes::root_owned(0o644)).unwrap_err();
        assert_eq!(dir.names().unwrap().iter().collect::<Vec<_>>(), ["taken"]);
    }
}
