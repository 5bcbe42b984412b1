//! What the real kiwi leaves, imported by `image import`: its target directory with and without the archive,
//! the archive, and archives that others make of its root.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::lab::{Recipe, Repository};
use crate::support::lab;
use crate::support::stand::{Objects, Stand};
use crate::support::tree::{self, Tree, run};

/// Runs kiwi as create jobs do, in namespaces of its own; its archive is made with little effort.
async fn build(recipe: &Path, target: &Path, scratch: &Path) {
    let home = scratch.join("home");
    std::fs::create_dir_all(&home).unwrap();
    std::fs::write(home.join(".rpmmacros"), "%_dbpath /var/lib/rpm\n").unwrap();
    let config = scratch.join("kiwi.yml");
    std::fs::write(&config, "xz:\n  - options: \"-0 --threads=0\"\n").unwrap();
    let mut kiwi = Command::new("unshare");
    kiwi.args(["-m", "-p", "-f", "--mount-proc", "--kill-child", "--propagation", "private"])
        .arg("kiwi-ng")
        .arg(format!("--config={}", config.display()))
        .arg(format!("--shared-cache-dir={}", scratch.join("cache").display()))
        .args(["--type", "tbz", "system", "build", "--description"])
        .arg(recipe)
        .arg("--target")
        .arg(target)
        .env("HOME", home);
    tokio::task::spawn_blocking(move || run(&mut kiwi)).await.unwrap();
}

/// Imports a root; the record of the import and the tree that its image holds.
async fn import(stand: &Stand, rootfs: &Path) -> (Value, Tree) {
    let path = rootfs.to_str().unwrap();
    let mut command =
        stand.command(&["image", "import", "--format", "json", "--name", "kiwi", "--force", path]);
    let json = tokio::task::spawn_blocking(move || run(&mut command)).await.unwrap();
    let imported: Value = serde_json::from_slice(&json).unwrap();
    let link = imported["ims_image_artifacts"][0]["link"]["path"].as_str().unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rootfs"), stand.get(link).await).unwrap();
    tree::unsquash(&dir.path().join("rootfs"), &dir.path().join("root"));
    (imported, tree::read(&dir.path().join("root")))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kiwi_leaves_is_imported_in_every_form() {
    let stand = Stand::start(Objects::Embedded).await;
    let repository = Repository::serve().await;
    let recipe = Recipe::new().replace("{{ repository }}", &repository.url);
    let dir = stand.dir.path();
    let target = dir.join("target");
    build(&recipe.path(""), &target, dir).await;
    let archive = target.join("lab-image.x86_64-1.0.0.tar.xz");
    assert!(archive.is_file() && target.join("kiwi.result.json").is_file());

    let (imported, mut of_target) = import(&stand, &target).await;
    let types: Vec<_> = imported["ims_image_artifacts"].as_array().unwrap().iter().collect();
    assert_eq!(types.len(), 4, "rootfs, kernel, initrd, manifest: {imported}");
    assert_eq!(imported["ims_image_record"]["arch"], "x86_64");
    let unpacked = dir.join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    run(Command::new("tar").arg("-C").arg(&unpacked).arg("-xf").arg(&archive));
    tree::assert_same(&import(&stand, &archive).await.1, &of_target);
    // Kiwi's archive says nothing of the root itself.
    of_target.remove(Path::new("."));
    let mut expected = tree::read(&unpacked);
    expected.remove(Path::new("."));
    tree::assert_same(&of_target, &expected);

    // Create jobs remove the archive, which nobody needs.
    std::fs::remove_file(&archive).unwrap();
    let root = target.join("build/image-root");
    xattr::set(root.join("etc/motd"), "user.of", b"the root").unwrap();
    std::fs::hard_link(root.join("etc/motd"), root.join("etc/issue")).unwrap();
    run(Command::new("mknod").arg(root.join("dev/zero")).args(["c", "1", "5"]));
    let expected = tree::read(&root);
    assert!(expected.contains_key(Path::new("./etc/lab-configured")), "{:?}", lab("IMS_LAB_KIWI"));
    tree::assert_same(&import(&stand, &target).await.1, &expected);
    for (program, options) in [
        ("tar", &["--xattrs", "--xattrs-include=*", "--numeric-owner", "-cJ"][..]),
        ("bsdtar", &["--xattrs", "-cz"]),
    ] {
        let made = dir.join(program);
        let mut tar = Command::new(program);
        run(tar.args(options).arg("-f").arg(&made).arg("-C").arg(&root).arg("."));
        tree::assert_same(&import(&stand, &made).await.1, &expected);
    }
}
