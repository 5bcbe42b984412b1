//! What the operator of a job has: limits of time, recordings, the list of sessions, host keys.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::process::Process;
use support::stand::{Objects, Stand};
use support::{SOON, agent, eventually, free_port, tree};

/// An agent of our own with further arguments.
struct Attended {
    stand: Stand,
    job: String,
    port: u16,
    agent: Process,
}

impl Attended {
    async fn start(arguments: &[&str]) -> Self {
        let mut stand = Stand::start(Objects::Embedded).await;
        let root = stand.dir.path().join("root");
        tree::make_small_root(&root);
        let image = stand.dir.path().join("base.sqsh");
        tree::squash(&root, &image);
        let image = stand.import("base", &image).await;
        let (job, port) = (stand.job_without_agent(&image).await, free_port());
        let agent = start(&stand, &job, port, arguments);
        let attended = Attended { stand, job, port, agent };
        attended.reaches("waiting_on_user").await;
        attended
    }

    async fn reaches(&self, status: &str) {
        eventually(status, SOON, async || {
            let found = self.stand.ims.job(&self.job).await["status"].clone();
            (found == status).then_some(())
        })
        .await;
    }

    fn mnt(&self) -> std::path::PathBuf {
        self.stand.dir.path().join("mnt")
    }

    fn own(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(agent());
        command.args(arguments).arg("--image-root-parent").arg(self.mnt());
        command
    }
}

fn start(stand: &Stand, job: &str, port: u16, arguments: &[&str]) -> Process {
    use secrecy::ExposeSecret;
    let dir = stand.dir.path();
    std::fs::create_dir(dir.join("mnt")).unwrap();
    let keys = dir.join("authorized_keys");
    std::fs::write(&keys, &stand.key.public).unwrap();
    let mut command = Command::new(agent());
    command
        .args(["run", "--ssh-listen", &format!("127.0.0.1:{port}"), "--authorized-keys"])
        .arg(&keys)
        .args(arguments)
        .current_dir(dir)
        .env("IMS_ACTION", "customize")
        .env("IMS_JOB_ID", job)
        .env("IMS_URL", &stand.ims.base)
        .envs(stand.oauth())
        .env("IMAGE_ROOT_PARENT", dir.join("mnt"))
        .env("IMAGE_ROOT_ARCHIVE_NAME", "customized")
        .env("SSH_JAIL", "True")
        .env("S3_ENDPOINT", stand.s3.endpoint.as_str())
        .env("S3_ACCESS_KEY", &stand.s3.access_key)
        .env("S3_SECRET_KEY", stand.s3.secret_key.expose_secret())
        .env("S3_BUCKET", "boot-images");
    Process::start(command, dir, "agent")
}

/// A shell on a terminal, and what it shows until it ends.
fn shell_until_its_end(attended: &Attended) -> String {
    let mut ssh = attended.stand.key.ssh(attended.port);
    let mut shell = ssh.arg("-tt").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let stdin = shell.stdin.take().unwrap();
    let mut shown = String::new();
    shell.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
    drop(stdin);
    let _ = shell.wait();
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_warns_and_ends_the_job_and_keeps_the_tree() {
    let mut attended = Attended::start(&["--deadline", "20"]).await;
    attended.stand.key.exec(attended.port, "echo work > /root/work");
    let shown = tokio::task::block_in_place(|| shell_until_its_end(&attended));
    assert!(shown.contains("This job ends with an error in 10 seconds"), "{shown}");
    attended.reaches("error").await;
    assert_eq!(attended.agent.wait(SOON).await.code(), Some(1));
    let result: Value = serde_json::from_str(&attended.agent.output()).unwrap();
    let error = result["error"].as_str().unwrap();
    assert!(error.contains("did not complete the image within 20 seconds (--deadline)"), "{error}");
    let kept = attended.mnt().join(".ims-job-agent/upper/root/work");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "work\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_job_ends_and_a_busy_one_does_not() {
    let mut attended = Attended::start(&["--idle-limit", "3s"]).await;
    let busy = "for i in 1 2 3 4 5 6; do echo $i; sleep 1; done";
    assert!(attended.stand.key.exec(attended.port, busy).ends_with("6\n"));
    attended.reaches("error").await;
    attended.agent.wait(SOON).await;
    let output = attended.agent.output();
    assert!(output.contains("no session was used for 3 seconds (--idle-limit)"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_can_be_listed_followed_and_recorded() {
    let attended = Attended::start(&["--record", "casts"]).await;
    let mut ssh = attended.stand.key.ssh(attended.port);
    ssh.arg("-tt").env("TERM", "vt220").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = ssh.spawn().unwrap();
    let mut stdin = shell.stdin.take().unwrap();
    let mut follow = attended.own(&["who", "--follow"]).stdout(Stdio::piped()).spawn().unwrap();
    let listed = eventually("the session in the list", SOON, async || {
        let listed = String::from_utf8(tree::run(&mut attended.own(&["attach"]))).unwrap();
        listed.contains("shell (terminal)").then_some(listed)
    })
    .await;
    assert!(listed.contains("127.0.0.1:") && listed.contains("SHA256:"), "{listed}");
    let control = std::fs::metadata(attended.mnt().join(".ims-job-agent/control")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&control.permissions()) & 0o777, 0o600);

    let mut following = BufReader::new(follow.stdout.take().unwrap());
    let mut followed = String::new();
    while !followed.contains("shell (terminal)") {
        assert_ne!(following.read_line(&mut followed).unwrap(), 0, "{followed}");
    }
    stdin.write_all("printf 'gr\\303\\274n\\n'; touch /tmp/failed; exit\n".as_bytes()).unwrap();
    shell.wait().unwrap();
    attended.reaches("error").await;
    following.read_to_string(&mut followed).unwrap();
    assert!(follow.wait().unwrap().success());
    assert!(followed.contains(" live "), "{followed}");
    recording(&attended.stand.dir.path().join("casts"));
}

/// The one recording in `directory` is as asciinema reads it.
fn recording(directory: &Path) {
    let entry = std::fs::read_dir(directory).unwrap().next().unwrap().unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&entry.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(entry.path()).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let header = lines.next().unwrap();
    assert_eq!((&header["version"], &header["env"]["TERM"]), (&2.into(), &"vt220".into()));
    let mut shown = String::new();
    let mut last = 0.0;
    for event in lines {
        assert!(event[0].as_f64().unwrap() >= last, "in order");
        last = event[0].as_f64().unwrap();
        if event[1] == "o" {
            shown += event[2].as_str().unwrap();
        }
    }
    assert!(shown.contains("gr\u{fc}n\r\n"), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn host_keys_are_the_same_wherever_they_are_told() {
    let status = format!("127.0.0.1:{}", free_port());
    let attended = Attended::start(&["--status-listen", &status]).await;
    let listed = String::from_utf8(tree::run(&mut attended.own(&["host-keys"]))).unwrap();
    let mut scan = Command::new("ssh-keyscan");
    scan.args(["-p", &attended.port.to_string(), "127.0.0.1"]).stderr(Stdio::null());
    let scanned = attended.stand.dir.path().join("scanned");
    std::fs::write(&scanned, scan.output().unwrap().stdout).unwrap();
    let mut keygen = Command::new("ssh-keygen");
    let seen = String::from_utf8(tree::run(keygen.args(["-l", "-f"]).arg(&scanned))).unwrap();
    let told: Value =
        reqwest::get(format!("http://{status}/status")).await.unwrap().json().await.unwrap();
    for line in listed.lines() {
        let (kind, fingerprint) = line.split_once(' ').unwrap();
        assert!(seen.contains(fingerprint), "{line}: {seen}");
        let mut keys = told["ssh_host_keys"].as_array().unwrap().iter();
        assert!(keys.any(|key| key["type"] == kind && key["fingerprint"] == fingerprint), "{told}");
    }
    let sshfp = tree::run(&mut attended.own(&["host-keys", "--sshfp", "job"]));
    assert!(String::from_utf8(sshfp).unwrap().starts_with("job IN SSHFP 4 2 "));
    let known = tree::run(&mut attended.own(&["host-keys", "--known-hosts", "127.0.0.1"]));
    assert!(String::from_utf8(known).unwrap().starts_with("127.0.0.1 ssh-ed25519 "));

    // The failed job of standalone keeps its directory: its keys are told there.
    let jobs = attended.stand.ims.get("v3/jobs").await;
    let id = jobs[0]["id"].as_str().unwrap();
    let keys = attended.stand.ims.get(&format!("standalone/jobs/{id}/host-keys")).await;
    assert_eq!(keys[0]["type"], "ssh-ed25519", "{keys}");
    attended.stand.key.exec(attended.port, "touch /tmp/failed");
    attended.reaches("error").await;
}
