//! OpenSSH's clients, set up for a test: a key of their own, no files of the user's.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::tree::run;

/// A key pair and the options with which every OpenSSH client finds it.
pub struct Key {
    pub private: PathBuf,
    pub public: String,
}

impl Key {
    /// Makes a pair of `kind` (`ed25519`, `ecdsa`, `rsa`) in `dir`.
    pub fn make(dir: &Path, kind: &str) -> Self {
        let private = dir.join(format!("id_{kind}"));
        run(Command::new("ssh-keygen")
            .args(["-q", "-N", "", "-m", "PEM", "-t", kind, "-f"])
            .arg(&private));
        let public = std::fs::read_to_string(private.with_extension("pub")).unwrap();
        Self { private, public }
    }

    /// Options that `ssh`, `scp` and `sftp` share.
    pub fn options(&self) -> Vec<String> {
        let mut options = vec!["-F".into(), "none".into(), "-i".into()];
        options.push(self.private.to_str().unwrap().into());
        for option in [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectTimeout=20",
        ] {
            options.extend(["-o".into(), option.into()]);
        }
        options
    }

    /// `ssh root@127.0.0.1`, without a command.
    pub fn ssh(&self, port: u16) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(self.options()).args(["-p", &port.to_string(), "root@127.0.0.1"]);
        ssh
    }

    /// Runs a command over ssh that must succeed; gives its stdout.
    pub fn exec(&self, port: u16, command: &str) -> String {
        let output = run(self.ssh(port).arg(command));
        String::from_utf8(output).unwrap()
    }

    /// Runs a command over ssh, however it ends.
    pub fn try_exec(&self, port: u16, command: &str) -> Output {
        self.ssh(port).arg(command).output().unwrap()
    }
}
