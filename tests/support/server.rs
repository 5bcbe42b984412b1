//! A server of the ssh room in this process, a user's key for it, and the clients to drive it with.

#![allow(dead_code, reason = "each test program uses its part")]

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use ims_job_agent::jail::{Jail, Options, Plan};
use ims_job_agent::ssh::authorized_keys::AuthorizedKeys;
use ims_job_agent::ssh::hostkeys::HostKeys;
use ims_job_agent::ssh::{Config, Forwarding, Handle, Limits, Server};
use linux::capability::CapSet;
use tempfile::TempDir;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// Long enough for a loaded machine; a test that meets it has hung.
pub const DEADLINE: Duration = Duration::from_secs(120);

pub struct Lab {
    pub dir: TempDir,
    pub server: Handle,
    pub host_keys: HostKeys,
    pub shutdown: CancellationToken,
}

impl Lab {
    pub async fn start() -> Self {
        Self::with("", |_| {}).await
    }

    /// `options` stand before the user's key; `change` may alter the server's configuration.
    pub async fn with(options: &str, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for kind in ["ed25519", "ecdsa"] {
            keygen(&["-q", "-t", kind, "-N", "", "-f"], dir.path().join(kind)).await;
        }
        let public = |kind: &str| {
            std::fs::read_to_string(dir.path().join(kind).with_extension("pub")).unwrap()
        };
        let keys = format!("{options} {}{options} {}", public("ed25519"), public("ecdsa"));
        let (authorized_keys, bad) = AuthorizedKeys::parse(keys.as_bytes());
        assert_eq!(bad, []);
        let mut config = Config {
            host_keys: HostKeys::load_or_make(&dir.path().join("host")).unwrap(),
            authorized_keys,
            jail: jail(),
            motd: "Welcome to job-1\n".to_owned().into(),
            forwarding: Forwarding::All,
            limits: Limits::default(),
            spill_directory: dir.path().to_owned(),
            record: None,
        };
        change(&mut config);
        let host_keys = config.host_keys.clone();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shutdown = CancellationToken::new();
        let known = config.host_keys.public().known_hosts("[127.0.0.1]:*,127.0.0.1,job");
        std::fs::write(dir.path().join("known_hosts"), known).unwrap();
        let server = Server::start(listener, config, shutdown.clone()).unwrap();
        Self { dir, server, host_keys, shutdown }
    }

    pub fn port(&self) -> u16 {
        self.server.local_addr().port()
    }

    /// Of the ed25519 host key.
    pub fn fingerprint(&self) -> String {
        self.host_keys.public().fingerprints()[0].1.clone()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The options that OpenSSH's tools share.
    pub fn options(&self) -> Vec<String> {
        let key = self.path("ed25519");
        let known = self.path("known_hosts");
        vec![
            "-F/dev/null".into(),
            format!("-i{}", key.display()),
            format!("-oUserKnownHostsFile={}", known.display()),
            "-oHostKeyAlias=job".into(),
            "-oBatchMode=yes".into(),
            "-oIdentitiesOnly=yes".into(),
            "-oConnectTimeout=60".into(),
            format!("-oPort={}", self.port()),
        ]
    }

    /// OpenSSH's client; add the command with `arg`.
    pub fn ssh(&self, options: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command.args(self.options()).args(options).arg("root@127.0.0.1");
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs `command` by OpenSSH's client.
    pub async fn exec(&self, command: &str) -> Output {
        output(self.ssh(&[]).arg(command)).await
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// An image root with a static busybox.
pub fn image() -> TempDir {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    for name in ["bin", "etc", "root", "tmp", "proc", "sys", "dev", "run"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    std::fs::copy("/bin/busybox", dir.path().join("bin/busybox"))
        .expect("busybox (package busybox-static) is installed");
    for name in ["sh", "ls", "cat", "test", "echo", "true"] {
        std::os::unix::fs::symlink("busybox", dir.path().join("bin").join(name)).unwrap();
    }
    dir
}

/// Sessions in this machine's own tree, with the job's variables.
fn jail() -> Jail {
    establish(None)
}

/// Sessions inside an image.
pub fn jail_in(root: &std::path::Path) -> Jail {
    establish(Some(root.to_owned()))
}

fn establish(root: Option<PathBuf>) -> Jail {
    let env = vec![("IMS_JOB_ID".into(), "job-1".into())];
    let options = Options { root, env, ..Options::default() };
    let held = CapSet::effective().expect("capabilities can be read");
    Jail::establish(Plan::new(options, held).expect("a plan")).expect("a jail")
}

async fn keygen(arguments: &[&str], file: PathBuf) {
    let done = output(Command::new("ssh-keygen").args(arguments).arg(file)).await;
    assert!(done.status.success(), "{done:?}");
}

/// Made by scripts/install.
pub const VENVS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/lab");

/// What a command printed; fails the test when it hangs.
pub async fn output(command: &mut Command) -> Output {
    command.kill_on_drop(true);
    let running = command.output();
    match tokio::time::timeout(DEADLINE, running).await {
        Ok(output) => output.unwrap_or_else(|error| panic!("{command:?}: {error}")),
        Err(_) => panic!("hung: {command:?}"),
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits for a condition.
pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The jail runs this very program again; as in main, that comes before anything else.
extern "C" fn before_main() {
    let first = std::env::args_os().nth(1);
    if first.as_deref() == Some(ims_job_agent::jail::ENTRY.as_ref()) {
        ims_job_agent::jail::entry();
    }
}

// SAFETY: the section holds pointers to functions that the C library calls before main, with
// arguments that this one does not take; Rust's own, which stores the arguments, comes earlier.
#[used]
#[allow(
    unsafe_code,
    reason = "a test harness has no main of ours: this section is the only way in before it"
)]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;
