//! What runs out: room on the volume, the length of files, descriptors, a place for the log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::tree;

/// Enough for a job on the small root.
const MEBIBYTES: u32 = 96;

/// A small volume.
pub struct Volume {
    path: PathBuf,
}

impl Volume {
    pub fn mount(path: &Path) -> Self {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={MEBIBYTES}m"), "tmpfs"]).arg(path);
        tree::run(&mut mount);
        Self { path: path.to_owned() }
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Nothing fits on it any more.
    pub fn fill(&self) {
        let script = "cat /dev/zero > \"$0\" 2>/dev/null; true";
        tree::run(Command::new("sh").args(["-c", script]).arg(self.filler()));
    }

    pub fn empty(&self) {
        let _ = fs::remove_file(self.filler());
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

/// A limit of a running process, set by prlimit(1); `None` lifts it.
pub fn limit(pid: u32, what: &str, value: Option<u64>) {
    let lifted = match what {
        "fsize" => "unlimited".to_owned(),
        _ => "4096".to_owned(),
    };
    let value = value.map_or(lifted, |value| value.to_string());
    // The soft limit alone, so that it can be lifted. The process may have ended meanwhile.
    let _ = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--{what}={value}:")])
        .stderr(std::process::Stdio::null())
        .status();
}

/// What starts a program whose log goes nowhere.
pub fn stderr(to: &str, parent: &Path) -> Vec<String> {
    let to = match to {
        "closed" => "2>&-".to_owned(),
        "full" => "2>/dev/full".to_owned(),
        _ => format!("2>>'{}'", parent.join("log").display()),
    };
    vec!["sh".into(), "-c".into(), format!("exec \"$0\" \"$@\" {to}")]
}
