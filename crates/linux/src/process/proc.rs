//! What `/proc` has of a process besides its line in the process table (proc(5)). What cannot be read, because
//! the process has ended or is somebody else's, is as if it were empty.

use std::fs;
use std::path::PathBuf;

use super::Process;
use crate::mountinfo::{self, Mount};

impl Process {
    /// A file or directory of this process in `/proc`.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }

    /// Its arguments, the program's name first.
    pub fn arguments(&self) -> Vec<Vec<u8>> {
        strings(&fs::read(self.file("cmdline")).unwrap_or_default())
    }

    /// Its environment as it was started with, `NAME=value` each.
    pub fn environment(&self) -> Vec<Vec<u8>> {
        strings(&fs::read(self.file("environ")).unwrap_or_default())
    }

    /// Identifies its mount namespace.
    pub fn mount_namespace(&self) -> Option<PathBuf> {
        fs::read_link(self.file("ns/mnt")).ok()
    }

    /// What is mounted in its mount namespace.
    pub fn mounts(&self) -> Vec<Mount> {
        mountinfo::parse(&fs::read(self.file("mountinfo")).unwrap_or_default())
    }
}

fn strings(text: &[u8]) -> Vec<Vec<u8>> {
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    match text {
        b"" => Vec::new(),
        text => text.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_arguments_an_environment_and_mounts() {
        let own = Process::read(std::process::id() as i32).unwrap();
        let arguments: Vec<_> = std::env::args_os().map(|text| text.into_encoded_bytes()).collect();
        assert_eq!(own.arguments(), arguments);
        assert!(own.environment().iter().any(|entry| entry.starts_with(b"PATH=")));
        assert!(own.mount_namespace().unwrap().to_str().unwrap().starts_with("mnt:["));
        assert!(own.mounts().iter().any(|mount| mount.point.starts_with("/proc")));
    }

    #[test]
    fn one_that_is_gone_has_nothing() {
        let own = Process::read(std::process::id() as i32).unwrap();
        let gone = Process { pid: i32::MAX, ..own };
        assert!(gone.arguments().is_empty() && gone.environment().is_empty());
        assert!(gone.mount_namespace().is_none() && gone.mounts().is_empty());
    }

    #[test]
    fn empty_arguments_count() {
        assert_eq!(strings(b"a\0\0b\0"), [b"a".to_vec(), b"".to_vec(), b"b".to_vec()]);
    }
}
