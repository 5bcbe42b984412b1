//! The main job driven by its real peers: CFS's SSH client, Ansible, many users at once; and what a
//! session leaves in an image.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};
use support::stand::{Job, Objects, Stand};
use support::tree::{self, Kind, Tree};
use support::{SOON, eventually, lab};

/// The playbook of IMS's guide, without what only its distribution has.
const PLAYBOOK: &str = r#"---
- hosts: all
  remote_user: root
  tasks:
    - name: Look at the image root
      command: "ls -l /mnt/image/image-root"

    - name: chroot and run a program of the image
      command: "chroot /mnt/image/image-root dpkg-query --show initramfs-tools"

    - name: example copying file with owner and permissions
      copy:
        src: sample_playbook.yml
        dest: /mnt/image/image-root/tmp
        owner: "12"
        group: "34"
        mode: "0640"

    - name: Exit the build container
      copy:
        src: nothing_file
        dest: /mnt/image/complete
"#;

/// The small root, changed by a shell script and registered as an image.
async fn small_image(stand: &Stand, change: &str) -> String {
    let root = stand.dir.path().join("root");
    tree::make_small_root(&root);
    tree::run(Command::new("sh").args(["-e", "-c", change]).current_dir(&root));
    let image = stand.dir.path().join("base.sqsh");
    tree::squash(&root, &image);
    stand.import("base", &image).await
}

/// Fetches the squashfs of a successful job.
async fn rootfs(stand: &Stand, record: &Value) -> PathBuf {
    let image = record["resultant_image_id"].as_str().unwrap();
    let file = stand.dir.path().join(format!("{image}.sqsh"));
    std::fs::write(&file, stand.get(&format!("s3://boot-images/{image}/rootfs")).await).unwrap();
    file
}

/// What is in the squashfs of a successful job.
async fn result(stand: &Stand, record: &Value) -> Tree {
    let file = rootfs(stand, record).await;
    let dir = file.with_extension("tree");
    tree::unsquash(&file, &dir);
    tree::read(&dir)
}

/// Waits as CFS does, for an image or an error.
async fn ended_for_cfs(job: &Job<'_>) -> Value {
    eventually("an image or an error", 3 * SOON, async || {
        let record = job.record().await;
        let ended = !record["resultant_image_id"].is_null() || record["status"] == "error";
        ended.then_some(record)
    })
    .await
}

async fn cfs(objects: Objects, command: &str) -> (Stand, Value) {
    let mut stand = Stand::start(objects).await;
    stand.key = support::ssh::Key::make(stand.dir.path(), "ecdsa");
    let image = small_image(&stand, "").await;
    let job = stand.customize(&image, true).await;
    job.reaches("waiting_on_user").await;
    support::cfs::exec(job.port, &stand.key.private, command);
    let record = ended_for_cfs(&job).await;
    if record["status"] == "error" {
        return (stand, record);
    }
    let record = job.reaches("success").await;
    (stand, record)
}

#[tokio::test(flavor = "multi_thread")]
async fn cfs_completes_and_hangs_up() {
    for objects in [Objects::Embedded, Objects::Ceph] {
        let (stand, record) = cfs(objects, "touch /tmp/complete").await;
        assert_eq!(record["status"], "success");
        assert!(!result(&stand, &record).await.contains_key(Path::new("./tmp/complete")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cfs_fails_and_hangs_up() {
    for objects in [Objects::Embedded, Objects::Ceph] {
        let (_stand, record) = cfs(objects, "touch /tmp/failed").await;
        assert_eq!(record["status"], "error");
        assert_eq!(record["resultant_image_id"], Value::Null);
    }
}

/// Ansible with the test's key and an inventory of one host, its files in the test's directory.
fn ansible(stand: &Stand, port: u16, program: &str) -> Command {
    let dir = stand.dir.path();
    let inventory = dir.join("inventory.ini");
    let line = format!(
        "myimage-customize ansible_user=root ansible_host=127.0.0.1 ansible_port={port} \
         ansible_ssh_private_key_file={} ansible_ssh_common_args='-F none -o StrictHostKeyChecking=no \
         -o UserKnownHostsFile=/dev/null'\n",
        stand.key.private.display()
    );
    std::fs::write(&inventory, line).unwrap();
    let mut command = Command::new(Path::new("/usr/bin").join(program));
    command
        .env("HOME", dir)
        .env("ANSIBLE_SSH_CONTROL_PATH_DIR", dir.join("control"))
        .env("ANSIBLE_NOCOLOR", "1")
        .current_dir(dir)
        .arg("-i")
        .arg(&inventory);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn ansible_works_in_the_jail_and_knows_it() {
    let stand = Stand::start(Objects::Embedded).await;
    let image = stand.import("debian", lab("IMS_LAB_ROOT").as_ref()).await;
    let job = stand.customize(&image, true).await;
    job.reaches("waiting_on_user").await;

    for transfer in ["sftp", "scp", "piped"] {
        let mut ping = ansible(&stand, job.port, "ansible");
        ping.args(["all", "-m", "ping"]).env("ANSIBLE_SSH_TRANSFER_METHOD", transfer);
        let answer = String::from_utf8(tree::run(&mut ping)).unwrap();
        assert!(answer.contains("SUCCESS") && answer.contains("pong"), "{transfer}: {answer}");
    }
    let mut setup = ansible(&stand, job.port, "ansible");
    setup.args(["all", "-m", "setup", "-a", "filter=ansible_is_chroot"]);
    let facts = String::from_utf8(tree::run(setup.env("ANSIBLE_PIPELINING", "True"))).unwrap();
    assert!(facts.contains("\"ansible_is_chroot\": true"), "{facts}");

    stand.key.exec(job.port, "touch /tmp/failed");
    job.reaches("error").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_playbook_completes_an_unjailed_job() {
    for objects in [Objects::Embedded, Objects::Ceph] {
        complete_by_playbook(objects).await;
    }
}

async fn complete_by_playbook(objects: Objects) {
    let stand = Stand::start(objects).await;
    let image = stand.import("debian", lab("IMS_LAB_ROOT").as_ref()).await;
    let job = stand.customize(&image, false).await;
    job.reaches("waiting_on_user").await;

    std::fs::write(stand.dir.path().join("sample_playbook.yml"), PLAYBOOK).unwrap();
    std::fs::write(stand.dir.path().join("nothing_file"), "").unwrap();
    let mut playbook = ansible(&stand, job.port, "ansible-playbook");
    // The host is this machine: Ansible's temporary files stay in the test's directory.
    playbook.env("ANSIBLE_REMOTE_TEMP", stand.dir.path().join("remote"));
    let recap = String::from_utf8(tree::run(playbook.arg("sample_playbook.yml"))).unwrap();
    assert!(recap.contains("unreachable=0    failed=0"), "{recap}");

    let record = job.reaches("success").await;
    let (image, dir) = (rootfs(&stand, &record).await, stand.dir.path().join("tmp-of-result"));
    tree::run(Command::new("unsquashfs").args(["-q", "-d"]).arg(&dir).arg(image).arg("tmp"));
    let found = tree::read(&dir.join("tmp"));
    let names: Vec<_> = found.keys().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(names, [".", "./sample_playbook.yml"]);
    let copied = &found[Path::new("./sample_playbook.yml")];
    assert_eq!((copied.mode, copied.owner), (0o640, (12, 34)));
    assert_eq!(copied.kind, Kind::File { content: PLAYBOOK.into() });
}

/// When the image's link to its resolver configuration was made.
const LINKED: i64 = 1_600_000_000;

/// Runs `script` in a jailed session on an image with a dangling link; gives what the script wrote
/// and the resulting image.
async fn session_with_resolv_conf(script: &str) -> (String, Tree) {
    let stand = Stand::start(Objects::Embedded).await;
    let image = small_image(&stand, &format!("touch -h -d @{LINKED} etc/resolv.conf")).await;
    let job = stand.customize(&image, true).await;
    job.reaches("waiting_on_user").await;
    let written = stand.key.exec(job.port, script);
    stand.key.exec(job.port, "touch /tmp/complete");
    let record = job.reaches("success").await;
    (written, result(&stand, &record).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_resolver_of_the_container_is_only_lent() {
    let script = "[ ! -L /etc/resolv.conf ] && [ -f /etc/resolv.conf ] && cat /etc/resolv.conf";
    let (seen, found) = session_with_resolv_conf(script).await;
    assert_eq!(seen, std::fs::read_to_string("/etc/resolv.conf").unwrap());
    let link = &found[Path::new("./etc/resolv.conf")];
    assert_eq!(link.kind, Kind::Link { target: "../run/resolv/resolv.conf".into() });
    assert_eq!(link.mtime, LINKED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_the_user_wrote_stays() {
    let (_, found) = session_with_resolv_conf("echo nameserver 192.0.2.1 > /etc/resolv.conf").await;
    let kind = &found[Path::new("./etc/resolv.conf")].kind;
    assert_eq!(*kind, Kind::File { content: b"nameserver 192.0.2.1\n".into() });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resolver_that_the_user_deleted_stays_deleted() {
    let (_, found) = session_with_resolv_conf("rm /etc/resolv.conf").await;
    assert!(!found.contains_key(Path::new("./etc/resolv.conf")));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_ours_is_in_the_image() {
    // What can only be there if the session's own /proc, /sys and /dev are.
    let script = "[ -e /proc/self/status ] && [ -c /dev/null ] && ls /sys; echo mine > /root/mine";
    let (sys, mut found) = session_with_resolv_conf(script).await;
    assert!(sys.contains("kernel"), "{sys}");
    let mine = found.remove(Path::new("./root/mine")).unwrap();
    assert_eq!(mine.kind, Kind::File { content: b"mine\n".into() });

    let root = tempfile::tempdir().unwrap();
    tree::make_small_root(root.path());
    let expected = tree::read(root.path());
    assert!(found.keys().eq(expected.keys()), "{:?}", found.keys());
    let host_key = |content: &[u8]| content.windows(11).any(|window| window == b"PRIVATE KEY");
    for (path, entry) in &found {
        let ours = matches!(&entry.kind, Kind::File { content } if host_key(content));
        assert!(!ours, "{} is a key", path.display());
    }
}

/// Five connections at once that wait for a line and keep it.
fn open_connections(stand: &Stand, port: u16) -> Vec<Child> {
    let connection = |n: u16| {
        let mut ssh = stand.key.ssh(port);
        ssh.arg(format!("read line; echo $line > /root/line-{n}")).stdin(Stdio::piped());
        ssh.spawn().unwrap()
    };
    (0..5).map(connection).collect()
}

/// Carries a file of 20 MB there and back, with the other connections open meanwhile.
fn work_in(stand: &Stand, port: u16, name: &str, content: &[u8]) {
    use std::io::Write;
    let connections = open_connections(stand, port);
    let file = |suffix: &str| stand.dir.path().join(format!("{name}.{suffix}"));
    std::fs::write(file("there"), content).unwrap();
    let (there, back) = (file("there"), file("back"));
    let orders =
        format!("put {} /root/{name}\nget /root/{name} {}\n", there.display(), back.display());
    std::fs::write(file("batch"), orders).unwrap();
    let mut sftp = Command::new("sftp");
    sftp.arg("-b").arg(file("batch")).args(stand.key.options());
    tree::run(sftp.args(["-P", &port.to_string(), "root@127.0.0.1"]));

    let sum = hex::encode(Sha256::digest(content));
    let there = stand.key.exec(port, &format!("busybox sha256sum /root/{name}"));
    assert_eq!(there, format!("{sum}  /root/{name}\n"));
    assert_eq!(hex::encode(Sha256::digest(std::fs::read(back).unwrap())), sum);
    for mut ssh in connections {
        writeln!(ssh.stdin.take().unwrap(), "{name}").unwrap();
        assert!(ssh.wait().unwrap().success());
    }
    stand.key.exec(port, "touch /tmp/complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn three_jobs_work_side_by_side() {
    let stand = Stand::start(Objects::Embedded).await;
    let image = small_image(&stand, "").await;
    let mut jobs = Vec::new();
    for name in ["one", "two", "three"] {
        let content = tree::noise(20_000_000, name.len() as u64 + u64::from(name.as_bytes()[0]));
        jobs.push((name, content, stand.customize(&image, true).await));
    }
    for (_, _, job) in &jobs {
        job.reaches("waiting_on_user").await;
    }
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            for (name, content, job) in &jobs {
                let (stand, port) = (&stand, job.port);
                scope.spawn(move || work_in(stand, port, name, content));
            }
        });
    });
    for (name, content, job) in jobs {
        let found = result(&stand, &job.reaches("success").await).await;
        let mut files: Vec<_> = found
            .keys()
            .filter_map(|path| path.strip_prefix("./root").ok()?.to_str())
            .filter(|path| !path.is_empty())
            .collect();
        files.sort_unstable();
        assert_eq!(files, ["line-0", "line-1", "line-2", "line-3", "line-4", name]);
        let kind = |file: &str| &found[&Path::new("./root").join(file)].kind;
        assert!(*kind(name) == Kind::File { content }, "{name} differs");
        for n in 0..5 {
            let line = format!("{name}\n").into_bytes();
            assert_eq!(*kind(&format!("line-{n}")), Kind::File { content: line });
        }
    }
}

/// Stops standalone while a user works, by a kill or as it should be, and starts it again.
async fn restarted(killed: bool) {
    let mut stand = Stand::start(Objects::Embedded).await;
    let image = small_image(&stand, "").await;
    let job = stand.customize(&image, true).await;
    job.reaches("waiting_on_user").await;
    let (id, port) = (job.id.clone(), job.port);
    let before = stand.ims.get("v3/images").await;

    if killed {
        stand.server().signal(Signal::SIGKILL);
    }
    stand.restart().await;
    let record = stand.ims.job(&id).await;
    assert_eq!(record["status"], "waiting_on_user", "{record}");
    assert_eq!(record["resultant_image_id"], Value::Null);
    assert_eq!(stand.ims.get("v3/images").await, before);
    let answers = async || stand.key.try_exec(port, "true").status.success().then_some(());
    eventually("the session answers again", SOON, answers).await;

    let again = stand.customize(&image, true).await;
    again.reaches("waiting_on_user").await;
    stand.key.exec(again.port, "touch /tmp/complete");
    again.reaches("success").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_standalone_pauses_its_jobs_and_keeps_its_records() {
    restarted(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_standalone_pauses_its_jobs_and_keeps_its_records() {
    restarted(true).await;
}
