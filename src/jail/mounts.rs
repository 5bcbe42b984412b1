//! What is mounted in the jail's namespace, to determine at the end what users mounted there.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;

/// proc_pid_mountinfo(5) of the sessions, as it was when the jail was set up and as it is.
///
/// As long as the file is open the namespace exists, with all that is mounted in it.
#[derive(Debug)]
pub struct Mounts {
    file: File,
    at_first: Vec<String>,
}

impl Mounts {
    pub fn new(file: OwnedFd) -> io::Result<Mounts> {
        let mut mounts = Mounts { file: file.into(), at_first: Vec::new() };
        mounts.at_first = mounts.points()?;
        Ok(mounts)
    }

    /// Mount points that were not there at first, with what is mounted; and lets go.
    pub fn added(mut self) -> Vec<String> {
        let mut now = self.points().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot determine what users mounted");
            Vec::new()
        });
        now.retain(|point| !self.at_first.contains(point));
        now
    }

    fn points(&mut self) -> io::Result<Vec<String>> {
        let mut table = String::new();
        self.file.rewind()?;
        self.file.read_to_string(&mut table)?;
        Ok(table.lines().filter_map(point).collect())
    }
}

/// `/mnt (tmpfs)` of a line of the table.
fn point(line: &str) -> Option<String> {
    let (mount, source) = line.split_once(" - ")?;
    let fstype = source.split(' ').next()?;
    Some(format!("{} ({fstype})", mount.split(' ').nth(4)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_point_and_type() {
        let line = "36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw";
        assert_eq!(point(line).unwrap(), "/mnt (ext3)");
    }
}
