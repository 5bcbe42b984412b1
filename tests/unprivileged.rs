//! IMS's default job, from end to end: sessions in the agent's own container, and no CAP_SYS_ADMIN. And
//! in every shape: what the agent knows stays out of the sessions.

#![allow(clippy::disallowed_methods, reason = "the program gets this process's PATH")]

mod support;

use std::path::Path;
use std::process::Command;

use s3_client::Store;
use secrecy::SecretString;
use serde_json::json;
use support::process::Process;
use support::stand::{Objects, Stand};
use support::tree;
use support::{SOON, agent, eventually, free_port};

/// What a container runtime gives by default.
const CONTAINER: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,\
                         +net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";
const PRIVILEGED: &str = "+all";

const S3_SECRET: &str = "s3-secret-of-the-test";
const OAUTH_SECRET: &str = "oauth-secret-of-the-test";

/// Looks for the secrets where a session might see them, and tells where. The patterns do not match
/// themselves.
const SPY: &str = r#"
for place in /proc/[0-9]*/environ /proc/[0-9]*/cmdline OAUTH/* OAUTH/..data/*; do
  grep -qaE 'secret-of-the-tes[t]' "$place" 2>/dev/null && echo "secret in $place"
done
env | grep -E 'S3_|OAUTH_|DOWNLOAD_|secret-of-the-tes[t]'
echo looked at $(ls -d /proc/[0-9]* 2>/dev/null | wc -l)
"#;

/// A job whose agent was started as a pod would start it.
struct Pod {
    stand: Stand,
    job: String,
    port: u16,
    agent: Process,
}

impl Pod {
    async fn start(capabilities: &str, jail: bool) -> Self {
        let mut stand = stand().await;
        let root = stand.dir.path().join("root");
        tree::make_small_root(&root);
        // Without CAP_SYS_ADMIN nobody can unpack such an attribute.
        let mut setfattr = Command::new("setfattr");
        tree::run(setfattr.args(["-x", "trusted.note"]).arg(root.join("usr/lib/with xattr")));
        let image = stand.dir.path().join("base.sqsh");
        tree::squash(&root, &image);
        let image_id = stand.import("base", &image).await;
        let (job, port) = (stand.job_without_agent(&image_id).await, free_port());
        let agent = start_agent(&stand, capabilities, jail, &job, port).await;
        let pod = Pod { stand, job, port, agent };
        pod.reaches("waiting_on_user").await;
        pod
    }

    async fn reaches(&self, status: &str) {
        eventually(status, SOON, async || {
            let found = self.stand.ims.job(&self.job).await["status"].clone();
            let text = self.agent.log();
            assert!(!text.contains("ERROR"), "the job is {found}: {text}");
            (found == status).then_some(())
        })
        .await;
    }

    fn exec(&self, command: &str) -> String {
        self.stand.key.exec(self.port, command)
    }

    /// What a session finds of the secrets, and how many processes it sees.
    fn spy(&self) -> (Vec<String>, usize) {
        let oauth = self.stand.dir.path().join("auth/oauth");
        let said = self.exec(&SPY.replace("OAUTH", oauth.to_str().unwrap()));
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        let seen = lines.pop().unwrap();
        (lines, seen.strip_prefix("looked at ").unwrap().trim().parse().unwrap())
    }

    /// Changes the image, signals, and sees the change in what was published.
    async fn complete(mut self, root: &str, signal: &str) {
        self.exec(&format!("echo changed > {root}/root/mine && touch {signal}"));
        self.reaches("success").await;
        assert!(self.agent.wait(SOON).await.success(), "{}", self.agent.log());
        let record = self.stand.ims.job(&self.job).await;
        let image = record["resultant_image_id"].as_str().unwrap();
        let file = self.stand.dir.path().join("result.sqsh");
        let rootfs = format!("s3://boot-images/{image}/rootfs");
        std::fs::write(&file, self.stand.get(&rootfs).await).unwrap();
        let dir = self.stand.dir.path().join("result");
        tree::unsquash(&file, &dir);
        assert_eq!(std::fs::read_to_string(dir.join("root/mine")).unwrap(), "changed\n");
    }
}

/// A standalone server whose secret no other test has.
async fn stand() -> Stand {
    let mut stand = Stand::start(Objects::Embedded).await;
    stand.s3.secret_key = SecretString::from(S3_SECRET);
    stand.store = Store::new(stand.s3.clone()).unwrap();
    stand.restart().await;
    stand
}

async fn start_agent(
    stand: &Stand,
    capabilities: &str,
    jail: bool,
    job: &str,
    port: u16,
) -> Process {
    let dir = stand.dir.path();
    // As Kubernetes mounts a secret: links to links.
    let oauth = dir.join("auth/oauth");
    let again = oauth.exists();
    std::fs::create_dir_all(oauth.join("..data")).unwrap();
    let endpoint = token_endpoint(stand.token()).await;
    for (name, value) in [
        ("client-id", "admin-client"),
        ("client-secret", OAUTH_SECRET),
        ("endpoint", endpoint.as_str()),
    ] {
        std::fs::write(oauth.join("..data").join(name), value).unwrap();
        if !again {
            std::os::unix::fs::symlink(Path::new("..data").join(name), oauth.join(name)).unwrap();
        }
    }
    let keys = dir.join("authorized_keys");
    std::fs::write(&keys, &stand.key.public).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--bounding-set", capabilities, "--inh-caps", "-all"])
        .arg(agent())
        .args(["run", "--ssh-listen", &format!("127.0.0.1:{port}"), "--authorized-keys"])
        .arg(&keys)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("IMS_ACTION", "customize")
        .env("IMS_JOB_ID", job)
        .env("IMS_URL", &stand.ims.base)
        .env("OAUTH_CONFIG_DIR", &oauth)
        .env("IMAGE_ROOT_PARENT", dir.join("mnt"))
        .env("IMAGE_ROOT_ARCHIVE_NAME", "customized")
        .env("SSH_JAIL", if jail { "True" } else { "False" })
        .env("S3_ENDPOINT", stand.s3.endpoint.as_str())
        .env("S3_ACCESS_KEY", &stand.s3.access_key)
        .env("S3_SECRET_KEY", S3_SECRET)
        .env("S3_BUCKET", "boot-images");
    std::fs::create_dir_all(dir.join("mnt")).unwrap();
    Process::start(command, dir, "agent")
}

/// Gives a token to whoever asks.
async fn token_endpoint(token: String) -> String {
    let answer =
        move || async move { axum::Json(json!({"access_token": token, "expires_in": 3600})) };
    let router = axum::Router::new().route("/token", axum::routing::post(answer));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/token")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_job_of_ims_works_and_keeps_its_secrets() {
    let pod = Pod::start(CONTAINER, false).await;
    let (found, seen) = pod.spy();
    assert_eq!(found, Vec::<String>::new());
    assert!(seen > 5, "the container's processes are in sight");
    let mnt = pod.stand.dir.path().join("mnt");
    let (root, signal) = (mnt.join("image-root"), mnt.join("complete"));
    assert!(pod.agent.log().contains("Landlock"), "{}", pod.agent.log());
    pod.complete(root.to_str().unwrap(), signal.to_str().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chroot_without_privileges_works_and_keeps_its_secrets() {
    let pod = Pod::start(CONTAINER, true).await;
    let said = pod.exec("busybox env; ls /proc");
    for text in ["S3_", "OAUTH", "DOWNLOAD", "secret", "environ"] {
        assert!(!said.contains(text), "{said}");
    }
    pod.complete("", "/tmp/complete").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_privileged_job_without_a_jail_keeps_its_secrets() {
    let pod = Pod::start(PRIVILEGED, false).await;
    let (found, seen) = pod.spy();
    assert_eq!(found, Vec::<String>::new());
    assert!(seen < 10, "a pid namespace of its own: {seen}");
    let mnt = pod.stand.dir.path().join("mnt");
    let own = mnt.join(".ims-job-agent");
    assert_eq!(pod.exec(&format!("ls -A {}", own.display())), "", "the agent's own files");
    let (root, signal) = (mnt.join("image-root"), mnt.join("complete"));
    pod.complete(root.to_str().unwrap(), signal.to_str().unwrap()).await;
}

/// Logs out by killing the parent of the session's shell, as some do: that is the jail's init. Leaves a
/// process that goes on writing to `file`.
fn leave_a_writer(pod: &Pod, file: &str) {
    let command = format!(
        "(while :; do echo written >> {file}; sleep 0.1; done) > /dev/null 2>&1 & kill -9 $PPID"
    );
    pod.stand.key.try_exec(pod.port, &command);
}

/// Whether a process has this in its command line.
fn runs(text: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().any(|process| {
        let line = std::fs::read(process.unwrap().path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    })
}

async fn what_a_killed_init_leaves_is_ended(jail: bool) {
    let mut pod = Pod::start(CONTAINER, jail).await;
    let root = pod.stand.dir.path().join("mnt/image-root");
    // Unique: other tests run at the same time.
    let (first, second) = (format!("{}-first", pod.port), format!("{}-second", pod.port));
    let inside = if jail { "".into() } else { root.display().to_string() };
    let is_written = async |name: &str| {
        let file = root.join("root").join(name);
        eventually(name, SOON, async || file.exists().then_some(())).await;
    };

    leave_a_writer(&pod, &format!("{inside}/root/{first}"));
    is_written(&first).await;
    pod.exec("true");
    assert!(pod.agent.log().contains("starting another"), "{}", pod.agent.log());
    assert!(!runs(&first), "the next session has company");

    leave_a_writer(&pod, &format!("{inside}/root/{second}"));
    is_written(&second).await;
    std::fs::write(pod.stand.dir.path().join("mnt/complete"), "").unwrap();
    pod.reaches("packaging_artifacts").await;
    assert!(!runs(&second), "the image may change while it is packed");
    pod.reaches("success").await;
    assert!(pod.agent.wait(SOON).await.success(), "{}", pod.agent.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_init_leaves_in_a_chroot_is_ended() {
    what_a_killed_init_leaves_is_ended(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_init_leaves_in_the_container_is_ended() {
    what_a_killed_init_leaves_is_ended(false).await;
}

/// Kills the agent while what a session left writes into the image, and starts it again when the user has
/// completed. `first` is done in a session before.
async fn nothing_outlives_a_killed_agent(jail: bool, first: &str) {
    let mut pod = Pod::start(CONTAINER, jail).await;
    let root = pod.stand.dir.path().join("mnt/image-root");
    // Unique: other tests run at the same time.
    let name = format!("{}-writer", pod.port);
    let inside = if jail { "".into() } else { root.display().to_string() };
    let file = root.join("root").join(&name);
    // Twice forked, in a session of its own, and nothing in its environment.
    let writer =
        format!("while :; do echo written >> {inside}/root/{name}; busybox sleep 0.05; done");
    let start = format!(
        "(busybox env -i PATH=$PATH busybox setsid sh -c '({writer}) & exit' >/dev/null 2>&1 &)"
    );
    let mut client = pod.stand.key.ssh(pod.port).arg(format!("{start}; {first}")).spawn().unwrap();
    eventually("written", SOON, async || file.exists().then_some(())).await;

    pod.agent.signal(nix::sys::signal::Signal::SIGKILL);
    pod.agent.wait(SOON).await;
    client.wait().unwrap();
    std::fs::write(pod.stand.dir.path().join("mnt/complete"), "").unwrap();
    pod.agent = start_agent(&pod.stand, CONTAINER, jail, &pod.job, pod.port).await;
    pod.reaches("packaging_artifacts").await;
    assert!(!runs(&name), "the image may change while it is packed: {}", pod.agent.log());
    pod.reaches("success").await;
    assert!(pod.agent.wait(SOON).await.success(), "{}", pod.agent.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_with_a_killed_agent_in_a_chroot() {
    nothing_outlives_a_killed_agent(true, "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_with_a_killed_agent_in_the_container() {
    nothing_outlives_a_killed_agent(false, "true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stopped_init_keeps_is_ended_by_the_next_agent() {
    nothing_outlives_a_killed_agent(true, "kill -STOP $PPID").await;
    nothing_outlives_a_killed_agent(false, "kill -STOP $PPID").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_a_user_stops_is_replaced() {
    let pod = Pod::start(CONTAINER, true).await;
    pod.stand.key.try_exec(pod.port, "kill -STOP $PPID");
    assert_eq!(pod.exec("echo again"), "again\n");
    assert!(pod.agent.log().contains("did not respond"), "{}", pod.agent.log());
    pod.complete("", "/tmp/complete").await;
}
