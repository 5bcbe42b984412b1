//! What goes wrong with recipes, repositories and kiwi: each a clear error that says what to do.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::lab::{CreatePod, Recipe, Repository, pod};
use crate::pod::Volume;
use crate::support::{free_port, tree};

const FETCHED: [&str; 2] = ["fetching_recipe", "error"];
const WAITED: [&str; 3] = ["fetching_recipe", "waiting_for_repos", "error"];
const BUILT: [&str; 4] = ["fetching_recipe", "waiting_for_repos", "building_image", "error"];

/// A job for the recipe fails so, and nothing but its directory is left.
async fn fails(pod: &CreatePod, statuses: &[&str], causes: &[&str]) {
    pod.run().ends(1, statuses, causes).await;
    pod.pod.assert_no_image().await;
    let failed = pod.pod.parent.join("build_failed");
    assert_eq!(failed.exists(), statuses.contains(&"building_image"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipe_that_cannot_be_used() {
    let repository = Repository::serve().await;
    let url = &repository.url;
    for (recipe, causes) in [
        (
            Recipe::new().without("config.xml").without(".ims_recipe_template.yaml"),
            ["no config.xml", "top"],
        ),
        (
            Recipe::new().replace("<source path=\"{{ repository }}\"/>", ""),
            ["no repository", "install"],
        ),
        (Recipe::new().replace("{{ repository }}", "{{ repo }}"), ["config.xml, line 15", "repo"]),
        (Recipe::new().replace("<description", "<"), ["not XML", "config.xml"]),
    ] {
        fails(&pod(&recipe.archive(), url).await, &FETCHED, &causes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_means_harm_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("recipe.tar.gz");
    let script = "mkdir in; cd in; echo x > f; ln -s /etc link; mkfifo fifo; \
                  tar -czf ../recipe.tar.gz --transform \"$1\" -P \"$2\"";
    for (transform, member, causes) in [
        ("s,f,../../../../tmp/ims-create-evil,", "f", ["ims-create-evil", ".."]),
        ("s,f,/tmp/ims-create-evil,", "f", ["/tmp/ims-create-evil", "absolute"]),
        ("s,x,x,", "link", ["link", "to /etc, outside the recipe"]),
        ("s,x,x,", "fifo", ["fifo", "refused"]),
    ] {
        let mut tar = Command::new("sh");
        tar.args(["-ec", script, "sh", transform, member]).current_dir(dir.path());
        tree::run(&mut tar);
        fs::remove_dir_all(dir.path().join("in")).unwrap();
        let pod = pod(&archive, "http://127.0.0.1:1").await;
        fails(&pod, &FETCHED, &causes).await;
        assert!(!Path::new("/tmp/ims-create-evil").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_never_comes_up() {
    let url = format!("http://127.0.0.1:{}/sles", free_port());
    let mut pod = pod(&Recipe::new().archive(), &url).await;
    pod.pod.vars.insert("TIMEOUT", "1".into());
    fails(&pod, &WAITED, &["did not respond within 1 s", &url, "refused"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kiwi() {
    let repository = Repository::serve().await;
    let mut pod = pod(&Recipe::new().archive(), &repository.url).await;
    pod.pod.vars.insert("PATH", "/nowhere".into());
    fails(&pod, &BUILT, &["kiwi-ng is not installed", "builder image"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_privilege_to_mount() {
    let repository = Repository::serve().await;
    let mut pod = pod(&Recipe::new().archive(), &repository.url).await;
    pod.wrapper = vec!["setpriv".into(), "--bounding-set=-sys_admin".into()];
    fails(&pod, &BUILT, &["CAP_SYS_ADMIN", "privileged"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kiwis_own_words() {
    let repository = Repository::serve().await;
    for (recipe, causes) in [
        (
            Recipe::new().replace("\"busybox\"", "\"no-such-package\""),
            ["KiwiBootStrapPhaseFailed", "no-such-package"],
        ),
        (Recipe::new().script("echo oh no >&2; exit 5"), ["KiwiScriptFailed", "oh no"]),
    ] {
        let pod = pod(&recipe.archive(), &repository.url).await;
        fails(&pod, &BUILT, &causes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_the_ca_is_no_image() {
    let repository = Repository::serve().await;
    let recipe = Recipe::new().script("rm /usr/share/pki/trust/anchors/*");
    let pod = pod(&recipe.archive(), &repository.url).await;
    fails(&pod, &BUILT, &["lacks the CA certificate", "cray_ca_cert"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_a_kernel_is_kept_for_another_try() {
    let repository = Repository::serve().await;
    let recipe = Recipe::new().script("rm /boot/vmlinuz");
    let pod = pod(&recipe.archive(), &repository.url).await;
    let statuses = [BUILT[0], BUILT[1], BUILT[2], "packaging_artifacts", "error"];
    pod.run().ends(1, &statuses, &["boot files", "vmlinuz", "ims-job-agent package"]).await;
    pod.pod.assert_no_image().await;
    assert!(pod.pod.parent.join("build/image-root/etc/motd").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk() {
    let repository = Repository::serve().await;
    let pod = pod(&Recipe::new().archive(), &repository.url).await;
    let _volume = Volume::mount(&pod.pod.parent, 12);
    fails(&pod, &BUILT, &["the volume of", "is full", "build_env_size"]).await;
}

/// A memory cgroup with a limit, until the end of the test.
struct Group(std::path::PathBuf);

impl Group {
    fn make(mebibytes: u64) -> Self {
        let name = format!("ims-create-{}", std::process::id());
        let limit = (mebibytes << 20).to_string();
        let (v1, v2) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        if v1.is_dir() {
            let group = v1.join(name);
            fs::create_dir(&group).unwrap();
            fs::write(group.join("memory.limit_in_bytes"), &limit).unwrap();
            return Self(group);
        }
        let group = v2.join(name);
        fs::write(v2.join("cgroup.subtree_control"), "+memory").unwrap();
        fs::create_dir(&group).unwrap();
        fs::write(group.join("memory.max"), &limit).unwrap();
        fs::write(group.join("memory.swap.max"), "0").unwrap();
        Self(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_runs_out() {
    let repository = Repository::serve().await;
    let recipe = Recipe::new().script("dd if=/dev/zero of=/dev/null bs=900M count=1");
    let mut pod = pod(&recipe.archive(), &repository.url).await;
    let group = Group::make(600);
    let enter = format!("echo $$ > {}/cgroup.procs; exec \"$@\"", group.0.display());
    pod.wrapper = ["sh", "-c", &enter, "sh"].map(Into::into).into();
    let causes = ["ran out of memory and was killed (the limit is 600.00 MiB)", "job_mem_size"];
    fails(&pod, &BUILT, &causes).await;
}
