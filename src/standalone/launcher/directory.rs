//! The directory of a job: `mnt/` (what it sees as /mnt/image), `authorized_keys`,
//! `template_dictionary`, `download_md5sum`, `ca-rpm/`, `log` (its stderr), `result.json` (its stdout),
//! `process.json`, `restarts` (how often its agent was started again).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::env::Download;
use crate::standalone::data::let_pass;
use linux::mountinfo;

#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    pub fn of(jobs: &Path, job: Uuid) -> Self {
        Self { path: jobs.join(job.to_string()) }
    }

    /// Creates the directory with what the agent needs to find in it.
    pub fn create(&self, public_key: &str, download: &Download) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        // As the root of a volume in a pod: everyone may pass, sessions look around in it.
        std::fs::create_dir(self.mnt())?;
        let_pass(&self.mnt())?;
        let mut keys = private(&self.authorized_keys())?;
        writeln!(keys, "{}", public_key.trim_end())?;
        serde_json::to_writer(private(&self.template_dictionary())?, &download.values)?;
        writeln!(private(&self.md5())?, "{}", download.md5)?;
        Ok(())
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn mnt(&self) -> PathBuf {
        self.path.join("mnt")
    }

    pub fn authorized_keys(&self) -> PathBuf {
        self.path.join("authorized_keys")
    }

    pub fn template_dictionary(&self) -> PathBuf {
        self.path.join("template_dictionary")
    }

    pub fn ca_rpm(&self) -> PathBuf {
        self.path.join("ca-rpm")
    }

    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Appended to: what it has of an earlier run stays, and it may be cut while it is written.
    pub fn open_log(&self) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(self.log())
    }

    pub fn open_result(&self) -> io::Result<File> {
        private(&self.path.join("result.json"))
    }

    pub fn process(&self) -> PathBuf {
        self.path.join("process.json")
    }

    fn md5(&self) -> PathBuf {
        self.path.join("download_md5sum")
    }

    /// What an agent that is started again downloads: what it does not have yet, from where its job's
    /// record leads it.
    pub fn download_again(&self) -> Download {
        let md5 = std::fs::read_to_string(self.md5()).unwrap_or_default().trim().to_owned();
        Download { md5, ..Download::default() }
    }

    /// Whether an agent can be started in it again.
    pub fn is_whole(&self) -> bool {
        self.mnt().is_dir()
            && self.authorized_keys().is_file()
            && self.template_dictionary().is_file()
    }

    /// Counts one more start of the agent after the first.
    pub fn count_restart(&self) -> io::Result<u32> {
        let path = self.path.join("restarts");
        let before = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let count = before + 1;
        writeln!(private(&path)?, "{count}")?;
        Ok(count)
    }

    /// Removes the tree the job worked in.
    pub fn remove_mnt(&self) -> io::Result<()> {
        remove_unmounted(&self.mnt())
    }

    /// Removes everything.
    pub fn remove(&self) -> io::Result<()> {
        remove_unmounted(&self.path)
    }
}

fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Removes a tree, unless something is mounted in it here: that would be removed with it.
fn remove_unmounted(path: &Path) -> io::Result<()> {
    let path = match path.canonicalize() {
        Ok(path) => path,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if let Some(mount) = mountinfo::at_or_below(&path)?.first() {
        return Err(io::Error::other(format!("{} is mounted", mount.point.display())));
    }
    std::fs::remove_dir_all(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux::mount::{Mounted, MsFlags};

    #[test]
    fn a_tree_in_which_something_is_mounted_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (job, other) = (dir.path().join("1"), dir.path().join("12"));
        std::fs::create_dir_all(job.join("mnt/a")).unwrap();
        std::fs::create_dir_all(&other).unwrap();
        let (source, point) = (Path::new("tmpfs"), job.join("mnt/a"));
        let mut mounted = Mounted::new("tmpfs", source, &point, MsFlags::empty(), None).unwrap();
        for path in [&job, &point] {
            let error = remove_unmounted(path).unwrap_err().to_string();
            assert!(error.contains("mnt/a is mounted"), "{error}");
        }
        remove_unmounted(&other).unwrap();
        mounted.close().unwrap();
        remove_unmounted(&job).unwrap();
        remove_unmounted(&job).unwrap();
        assert!(!job.exists() && !other.exists());
    }
}
