//! Finds the processes that keep a directory or a mount busy, like `fuser -m`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Process, all};

/// How a process uses a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Its root directory lies there.
    Root,
    /// Its working directory lies there.
    WorkingDirectory,
    /// Its program lies there.
    Executable,
    /// It has a file there open.
    OpenFile,
}

/// A process that uses a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Who.
    pub process: Process,
    /// The first of its uses that was found.
    pub how: Use,
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = match self.how {
            Use::Root => "has its root directory in it",
            Use::WorkingDirectory => "has its working directory in it",
            Use::Executable => "runs a program from it",
            Use::OpenFile => "has an open file in it",
        };
        write!(f, "{} {how}", self.process)
    }
}

/// The processes other than this one whose root, working directory, program or open files lie at
/// or below `path`. Processes that may not be looked at are left out.
pub fn users_of(path: &Path) -> Vec<User> {
    let Ok(path) = path.canonicalize() else { return Vec::new() };
    let place = Place { device: own_device(&path), path: &path };
    let me = std::process::id() as i32;
    all()
        .into_iter()
        .filter(|process| process.pid != me && process.runs())
        .filter_map(|process| place.use_by(&process).map(|how| User { process, how }))
        .collect()
}

/// The device number of `path` if a filesystem of its own is mounted there.
///
/// The paths of a process in another mount namespace are shown relative to its own root; the
/// device number is the same everywhere.
fn own_device(path: &Path) -> Option<u64> {
    let device = path.metadata().ok()?.dev();
    (path.parent()?.metadata().ok()?.dev() != device).then_some(device)
}

struct Place<'a> {
    path: &'a Path,
    device: Option<u64>,
}

impl Place<'_> {
    fn use_by(&self, process: &Process) -> Option<Use> {
        [("root", Use::Root), ("cwd", Use::WorkingDirectory), ("exe", Use::Executable)]
            .into_iter()
            .find(|(name, _)| self.holds(&process.file(name)))
            .map(|(_, how)| how)
            .or_else(|| {
                let mut files = std::fs::read_dir(process.file("fd")).ok()?.flatten();
                files.any(|file| self.holds(&file.path())).then_some(Use::OpenFile)
            })
    }

    fn holds(&self, link: &Path) -> bool {
        let by_path = std::fs::read_link(link).is_ok_and(|target| target.starts_with(self.path));
        let by_device =
            || self.device.is_some_and(|device| link.metadata().is_ok_and(|at| at.dev() == device));
        by_path || by_device()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn working_directories_and_open_files_are_found_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("open")).unwrap();
        let sleep = || {
            let mut command = Command::new("sleep");
            command.arg("600");
            command
        };
        let mut children = [
            sleep().current_dir(dir.path()).spawn().unwrap(),
            sleep().stdout(Stdio::from(file)).spawn().unwrap(),
            sleep().current_dir("/").spawn().unwrap(),
        ];
        let users = users_of(dir.path());
        let how = |index: usize| {
            users
                .iter()
                .find(|user| user.process.pid == children[index].id() as i32)
                .map(|user| user.how)
        };
        let found = [how(0), how(1), how(2)];
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(found, [Some(Use::WorkingDirectory), Some(Use::OpenFile), None]);
    }
}
