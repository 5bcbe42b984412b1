//! An aarch64 image on a host of another architecture: sessions run its programs under qemu, which the
//! agent registers with the kernel. One test, as registrations are the whole machine's.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::lab;
use support::pod::Pod;

const MISC: &str = "/proc/sys/fs/binfmt_misc";

/// As qemu's own script writes it (scripts/qemu-binfmt-conf.sh).
const AARCH64: &str = "M::\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\
    \\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:\
    /usr/bin/qemu-aarch64-static:";

/// The machine as it was: mounted or not, and without what was registered for aarch64.
struct Machine {
    mounted: bool,
    found: Vec<(PathBuf, String)>,
}

impl Machine {
    fn without_registrations() -> Self {
        let mounted = Path::new(MISC).join("register").exists();
        let found = registrations();
        for (path, _) in &found {
            fs::write(path, "-1").unwrap();
        }
        Self { mounted, found }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for (path, _) in registrations() {
            let _ = fs::write(path, "-1");
        }
        for (path, text) in &self.found {
            let flags = text.lines().find_map(|line| line.strip_prefix("flags: ")).unwrap_or("F");
            let name = path.file_name().unwrap().to_str().unwrap();
            register(name, flags);
        }
        if !self.mounted {
            let _ = Command::new("umount").arg(MISC).status();
        }
    }
}

fn registrations() -> Vec<(PathBuf, String)> {
    let Ok(entries) = fs::read_dir(MISC) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let read = paths.filter_map(|path| Some((path.clone(), fs::read_to_string(path).ok()?)));
    read.filter(|(_, text)| text.contains("qemu-aarch64")).collect()
}

fn register(name: &str, flags: &str) {
    fs::write(Path::new(MISC).join("register"), format!(":{name}:{AARCH64}{flags}")).unwrap();
}

/// All programs of the image are for aarch64.
async fn pod() -> Pod {
    let mut pod = Pod::with_image(|root| {
        fs::remove_file(root.join("bin/busybox")).unwrap();
        fs::copy(lab("IMS_LAB_ARM64"), root.join("bin/busybox")).unwrap();
        std::os::unix::fs::symlink("busybox", root.join("bin/uname")).unwrap();
        fs::rename(root.join("boot/vmlinuz"), root.join("boot/Image")).unwrap();
    })
    .await;
    pod.vars.insert("BUILD_ARCH", "aarch64".into());
    pod
}

/// The user works in the image, by programs of its own.
async fn works(pod: &Pod, said: &[&str]) {
    let mut agent = pod.run();
    agent.reaches("waiting_on_user").await;
    assert_eq!(pod.stand.key.exec(agent.port, "uname -m; echo by arm > /made"), "aarch64\n");
    pod.stand.key.exec(agent.port, "touch /tmp/complete");
    let statuses = ["fetching_image", "waiting_on_user", "packaging_artifacts", "success"];
    agent.ends(0, &statuses, said).await;
    pod.assert_image().await;
}

async fn fails(pod: &Pod, causes: &[&str]) {
    pod.renew_job();
    pod.run().ends(1, &["error"], causes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_another_architecture_is_customized() {
    assert_ne!(std::env::consts::ARCH, "aarch64", "nothing to emulate on this machine");
    let machine = Machine::without_registrations();
    if !machine.mounted {
        assert!(!Path::new(MISC).join("register").exists(), "the agent has to mount it");
    }
    works(&pod().await, &["emulating programs of the image", "registered=true"]).await;
    let (entry, text) = registrations().remove(0);
    assert!(text.contains("flags: F"), "{text}");
    // The next job uses it.
    works(&pod().await, &["registered=false"]).await;
    assert_eq!(registrations(), [(entry.clone(), text)]);

    fs::write(&entry, "0").unwrap();
    let failing = pod().await;
    fails(&failing, &["qemu-aarch64 is disabled"]).await;
    fs::write(&entry, "-1").unwrap();
    register("site-arm", "OC");
    fails(&failing, &["site-arm lacks the flag F"]).await;
    assert_eq!(registrations().len(), 1, "somebody else's registration is left alone");
}
