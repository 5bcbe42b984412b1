//! What must be refused, with a reason, and leaves nothing.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run::{fails, images, import, path, small_root, succeeds, text};
use crate::support::proxy::{ALWAYS, Fault, Proxy};
use crate::support::stand::{Objects, Stand};
use crate::support::tree::run;

/// Writes an archive of these headers; sizes are those of the contents.
fn archive(stand: &Stand, name: &str, entries: &[(&str, tar::EntryType, &str)]) -> PathBuf {
    let mut bytes = Vec::new();
    for (path, kind, target) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_link_name_literal(target).unwrap();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        if *kind == tar::EntryType::Char {
            // One more than Linux knows.
            header.set_device_major(1 << 12).unwrap();
            header.set_device_minor(1).unwrap();
        }
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
    }
    bytes.resize(bytes.len() + 1024, 0);
    let file = stand.dir.path().join(name);
    std::fs::write(&file, bytes).unwrap();
    file
}

async fn refused(stand: &Stand, rootfs: &Path, said: &str) {
    let log = fails(stand, &["image", "import", "--name", "bad", path(rootfs)]).await;
    assert!(log.contains(said), "{}: {log}", rootfs.display());
}

async fn bad_roots_are_refused_and_leave_nothing(objects: Objects) {
    use tar::EntryType::{Char, Directory, Link, Regular, Symlink};
    let stand = Stand::start(objects).await;
    let root = small_root(&stand);
    let file = |name: &str| stand.dir.path().join(name);
    for (option, name) in [("-c", "plain"), ("-cz", "gz"), ("-cJ", "xz")] {
        run(Command::new("tar").args([option, "-C", path(&root), "-f"]).arg(file(name)).arg("."));
        let whole = std::fs::read(file(name)).unwrap();
        let cut = file(&format!("cut-{name}"));
        std::fs::write(&cut, &whole[..whole.len() * 2 / 3]).unwrap();
        refused(&stand, &cut, "cannot create an image").await;
    }
    let mut damaged = std::fs::read(file("gz")).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    std::fs::write(file("damaged"), damaged).unwrap();
    refused(&stand, &file("damaged"), "cannot create an image").await;
    for (name, entries, said) in [
        ("up", vec![("../escape", Regular, "")], "refused"),
        ("inner-up", vec![("a/../../escape", Regular, "")], "refused"),
        ("no-target", vec![("a", Link, "nowhere")], "hard link to nowhere"),
        ("link-up", vec![("a", Link, "../../etc/passwd")], "refused"),
        ("loop", vec![("a", Symlink, "b"), ("b", Symlink, "a"), ("a/x", Regular, "")], "loop"),
        ("device", vec![("a", Char, "")], "a device with a number"),
        ("no-programs", vec![("etc", Directory, "")], "--arch"),
    ] {
        refused(&stand, &archive(&stand, name, &entries), said).await;
    }
    tree_errors(&stand, &root).await;
    assert_eq!(images(&stand).await, Vec::<String>::new());
}

/// A root whose tree makes no sense.
async fn tree_errors(stand: &Stand, root: &Path) {
    std::fs::remove_file(root.join("boot/vmlinuz")).unwrap();
    symlink("vmlinuz-loop", root.join("boot/vmlinuz")).unwrap();
    symlink("vmlinuz", root.join("boot/vmlinuz-loop")).unwrap();
    refused(stand, root, "loop").await;
    for link in ["boot/vmlinuz", "boot/vmlinuz-loop"] {
        std::fs::remove_file(root.join(link)).unwrap();
    }
    std::fs::write(root.join("boot/vmlinuz-6.2.0"), "second").unwrap();
    refused(stand, root, "more than one kernel").await;
    std::fs::remove_file(root.join("boot/vmlinuz-6.2.0")).unwrap();
    let other = if cfg!(target_arch = "x86_64") { "aarch64" } else { "x86_64" };
    let arguments = ["image", "import", "--name", "bad", "--arch", other, path(root)];
    let log = fails(stand, &arguments).await;
    assert!(log.contains("not "), "{log}");
    let squashfs = stand.dir.path().join("damaged.sqsh");
    run(Command::new("mksquashfs").arg(root).arg(&squashfs).args(["-quiet", "-no-progress"]));
    let mut file = std::fs::File::options().write(true).open(&squashfs).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(4000)).unwrap();
    file.write_all(&[0xa5; 3000]).unwrap();
    refused(stand, &squashfs, "cannot be imported").await;
}

async fn a_failure_on_the_way_leaves_nothing(objects: Objects) {
    let stand = Stand::start(objects).await;
    let root = small_root(&stand);
    let ims = Proxy::start(&stand.ims.base, Box::new(|_, _| None)).await;
    let before = stand.keys("").await.len();
    for (pattern, fault) in [
        ("POST /images", Fault::Status(500)),
        ("PATCH /images", Fault::Status(409)),
        ("GET /v3/images/", Fault::Status(500)),
    ] {
        ims.heal();
        ims.fail(pattern, fault, ALWAYS);
        let mut command = stand.command(&["image", "import", "--name", "undone", path(&root)]);
        // The failure is told when it has been tried for so long.
        command.env("IMS_URL", ims.url()).env("IMS_PYTHON_HELPER_TIMEOUT", "5");
        // Of another URL than its own the token of standalone is not found by itself.
        command.env("IMS_TOKEN_FILE", stand.token_file());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(ims.count(pattern) > 0, "{pattern}");
        assert_eq!(output.status.code(), Some(1), "{pattern}: {}", text(&output.stderr));
        assert_eq!(images(&stand).await, Vec::<String>::new(), "{pattern}");
    }
    if objects == Objects::Embedded {
        assert_eq!(stand.keys("").await.len(), before);
    }
}

async fn failures_are_told_in_json_too(objects: Objects) {
    let stand = Stand::start(objects).await;
    for arguments in [
        &["image", "import", "--name", "x", "/no/such/root"][..],
        &["recipe", "import", "--name", "x", "--linux-distribution", "sles15", "/no/such/recipe"],
        &["data", "import", "/no/such/export"],
        &["image", "get", "6d3ab7d6-2a1e-4f0e-9d5f-0f6d5f0f6d5f", "x"],
    ] {
        let output = crate::run::output(&stand, &[arguments, &["--format", "json"]].concat()).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["result"], "failure", "{json}");
        assert!(!json["error"].as_str().unwrap().is_empty(), "{json}");
    }
    // One that is not there does not hide the others.
    let id = import(&stand, "img", &small_root(&stand)).await;
    let arguments = ["image", "verify", "--format", "json", "6d3ab7d6-none", &id];
    let output = crate::run::output(&stand, &arguments).await;
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let problems = |index: usize| json["reports"][index]["problems"].as_array().unwrap().len();
    assert_eq!((problems(0), problems(1)), (1, 0), "{json}");
}

async fn a_result_that_cannot_be_written_is_told(objects: Objects) {
    let stand = Stand::start(objects).await;
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    let (_, closed) = std::io::pipe().unwrap();
    for (stdout, code) in [(Stdio::from(full()), 1), (Stdio::from(closed), 0)] {
        let mut command = stand.command(&["image", "ls"]);
        command.stdout(stdout);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", text(&output.stderr));
    }
}

async fn a_damaged_image_is_told(objects: Objects) {
    let stand = Stand::start(objects).await;
    let root = small_root(&stand);
    let id = import(&stand, "img", &root).await;
    succeeds(&stand, &["image", "verify", &id]).await;
    let other = stand.dir.path().join("other");
    std::fs::write(&other, "not the kernel").unwrap();
    stand.put(&format!("{id}/kernel"), &other).await;
    let log = crate::run::output(&stand, &["image", "verify", &id]).await;
    assert_eq!(log.status.code(), Some(1));
    assert!(text(&log.stdout).contains("etag is"), "{}", text(&log.stdout));
    // A manifest of more than a MiB is not read.
    std::fs::write(&other, vec![b' '; (1 << 20) + 1]).unwrap();
    stand.put(&format!("{id}/manifest.json"), &other).await;
    let log = crate::run::output(&stand, &["image", "verify", &id]).await;
    assert!(text(&log.stdout).contains("1 MiB"), "{}", text(&log.stdout));
    let log = fails(&stand, &["data", "export", "x", "--include-linked-artifacts"]).await;
    assert!(log.contains("1 MiB"), "{log}");
}

crate::on_both_stores! {
    bad_roots_are_refused_and_leave_nothing
    a_failure_on_the_way_leaves_nothing
    failures_are_told_in_json_too
    a_result_that_cannot_be_written_is_told
    a_damaged_image_is_told
}
