//! A second host on this machine: a network namespace at the other end of a cable that can be pulled,
//! with OpenSSH's server in a mount namespace where `/tmp`, `/mnt`, `/var/lib` and root's home are its own.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};
use tempfile::TempDir;

use crate::pod::Pod;
use crate::support::process::Process;
use crate::support::ssh::Key;
use crate::support::{SOON, eventually, tree};

static COUNT: AtomicU32 = AtomicU32::new(0);

pub struct SecondHost {
    /// Of the network namespace, and of our end of the cable.
    name: String,
    address: Ipv4Addr,
    sshd: Process,
    /// With the keys for root there: the agent's `--remote-keys`.
    pub keys: PathBuf,
    dir: TempDir,
}

/// What is unlike a usual node.
#[derive(Default)]
pub struct Oddities {
    /// Size of `/tmp`.
    pub mebibytes: Option<u32>,
    /// What `uname -m` says.
    pub arch: Option<&'static str>,
}

impl SecondHost {
    /// Starts it, and sets up `pod` to use it.
    pub async fn start(pod: &mut Pod) -> Self {
        Self::odd(pod, Oddities::default()).await
    }

    pub async fn odd(pod: &mut Pod, oddities: Oddities) -> Self {
        // On the second host `/tmp` is another one, `/run` is shared.
        let dir = tempfile::Builder::new().prefix("ims-host").tempdir_in("/run").unwrap();
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ims{}-{number}", std::process::id());
        let address = connect(&name, number);
        let keys = dir.path().join("keys");
        fs::create_dir(&keys).unwrap();
        let key = Key::make(&keys, "ecdsa");
        fs::write(dir.path().join("authorized_keys"), &key.public).unwrap();
        Key::make(dir.path(), "ed25519");
        let sshd = start_sshd(&name, dir.path(), &oddities);
        let host = Self { name, address, sshd, keys, dir };
        eventually("the second host answers", SOON, async || {
            TcpStream::connect((host.address, 22)).ok()
        })
        .await;
        host.expose(pod.s3.url().rsplit(':').next().unwrap().parse().unwrap());
        pod.vars.insert("REMOTE_BUILD_NODE", host.address.to_string());
        pod.vars.insert("REMOTE_HEARTBEAT_TIMEOUT_COUNT", "2".into());
        host
    }

    /// The options of `run`.
    pub fn options(&self) -> [&str; 2] {
        ["--remote-keys", self.keys.to_str().unwrap()]
    }

    /// Public half of the host's key.
    pub fn host_key(&self) -> String {
        fs::read_to_string(self.dir.path().join("id_ed25519.pub")).unwrap()
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// No key is good any more.
    pub fn refuse(&self) {
        fs::write(self.dir.path().join("authorized_keys"), "").unwrap();
    }

    pub fn pull_the_cable(&self) {
        ip(&["link", "set", &self.name, "down"]);
    }

    /// Runs a command there.
    pub fn run(&self, command: &str) -> String {
        let mut run = Command::new("nsenter");
        run.args(["-m", "-n", "-t", &self.sshd.id().to_string(), "sh", "-c", command]);
        String::from_utf8(tree::run(&mut run)).unwrap()
    }

    /// Makes a port of this machine's loopback one of that host's, too.
    pub fn expose(&self, port: u16) {
        let namespace = fs::File::open(format!("/run/netns/{}", self.name)).unwrap();
        let listen = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            TcpListener::bind(("127.0.0.1", port)).unwrap()
        };
        let listener = std::thread::spawn(listen).join().unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        tokio::spawn(async move {
            while let Ok((mut there, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut here = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
                    tokio::io::copy_bidirectional(&mut there, &mut here).await
                });
            }
        });
    }

    /// The program stays; nothing else does, but for the empty directory that users know.
    pub async fn is_clean(&self) {
        let look = "ls -d /tmp/ims_* 2>/dev/null; find /tmp -type f; \
                    grep -e ims_ -e mnt-image /proc/mounts; \
                    find /var/lib -name 'new.*'; true";
        eventually("nothing is left on the node", SOON, async || {
            let (left, processes) = (self.run(look), self.processes());
            if left.is_empty() && processes.is_empty() {
                return Some(());
            }
            println!("left: {left}, {processes:?}");
            None
        })
        .await;
    }

    pub fn kill_the_program(&self) {
        let mut processes = self.processes().into_iter();
        let (pid, _) = processes.find(|(_, line)| line.starts_with("unshare")).unwrap();
        kill(pid);
    }

    /// What runs there, with its command line. The sshd's own processes stay as long as it believes in
    /// a connection.
    fn processes(&self) -> Vec<(u32, String)> {
        let line = |pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let all = pids(&self.name).into_iter().map(|pid| (pid, line(pid)));
        all.filter(|(_, line)| !line.is_empty() && !line.contains("sshd")).collect()
    }
}

impl Drop for SecondHost {
    fn drop(&mut self) {
        for pid in pids(&self.name) {
            kill(pid);
        }
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
        let _ = Command::new("ip").args(["link", "delete", &self.name]).status();
    }
}

/// One that has ended meanwhile is fine.
fn kill(pid: u32) {
    let pid = nix::unistd::Pid::from_raw(pid as i32);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
}

/// All processes of a network namespace.
fn pids(name: &str) -> Vec<u32> {
    let output = Command::new("ip").args(["netns", "pids", name]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

fn ip(arguments: &[&str]) {
    tree::run(Command::new("ip").args(arguments));
}

/// Makes the namespace and the cable; gives the address at the other end.
fn connect(name: &str, number: u32) -> Ipv4Addr {
    // Networks of four addresses in 198.18.0.0/15, which is for tests (RFC 2544).
    let network = (std::process::id() * 16 + number) % (1 << 15) * 4;
    let base = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + network;
    let [ours, theirs] = [1, 2].map(|host| Ipv4Addr::from(base + host));
    ip(&["netns", "add", name]);
    ip(&["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name]);
    ip(&["address", "add", &format!("{ours}/30"), "dev", name]);
    ip(&["link", "set", name, "up"]);
    ip(&["-n", name, "address", "add", &format!("{theirs}/30"), "dev", "eth0"]);
    for device in ["lo", "eth0"] {
        ip(&["-n", name, "link", "set", device, "up"]);
    }
    theirs
}

fn start_sshd(name: &str, dir: &std::path::Path, oddities: &Oddities) -> Process {
    let d = dir.display();
    let mut config = format!(
        "Port 22\nHostKey {d}/id_ed25519\nAuthorizedKeysFile {d}/authorized_keys\nUsePAM no\n\
         PermitRootLogin prohibit-password\nStrictModes no\nPidFile none\nLogLevel VERBOSE\n"
    );
    if let Some(arch) = oddities.arch {
        let bin = dir.join("bin");
        fs::create_dir(&bin).unwrap();
        tree::write(&bin.join("uname"), format!("#!/bin/sh\necho {arch}\n").as_bytes(), 0o755);
        config += &format!("SetEnv PATH={}:/usr/bin:/bin\n", bin.display());
    }
    fs::write(dir.join("sshd_config"), config).unwrap();
    fs::create_dir_all("/run/sshd").unwrap();
    let size = oddities.mebibytes.unwrap_or(512);
    let script = format!(
        "mount -t tmpfs -o mode=1777,size={size}m tmpfs /tmp && mount -t tmpfs tmpfs /mnt && \
         mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /root && \
         exec /usr/sbin/sshd -D -e -f {d}/sshd_config"
    );
    let mut command = Command::new("ip");
    command.args(["netns", "exec", name, "unshare", "--mount", "sh", "-c", &script]);
    Process::start(command, dir, "sshd")
}
