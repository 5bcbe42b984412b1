//! Roots in every form, made by the tools that make them: each becomes an image with the same tree.

use std::path::Path;
use std::process::Command;

use crate::run::{fails, import, path, small_root, succeeds};
use crate::support::stand::{Objects, Stand};
use crate::support::tree::{self, run};

fn tar(root: &Path, archive: &Path, options: &[&str]) {
    run(Command::new("tar").arg("-C").arg(root).args(options).arg("-cf").arg(archive).arg("."));
}

fn bsdtar(root: &Path, archive: &Path, options: &[&str]) {
    let mut command = Command::new("bsdtar");
    command.arg("-C").arg(root).args(options).arg("-cf").arg(archive).arg(".");
    run(&mut command);
}

const XATTRS: [&str; 2] = ["--xattrs", "--xattrs-include=*"];

async fn every_form_of_a_root_becomes_the_same_image(objects: Objects) {
    let stand = Stand::start(objects).await;
    let root = small_root(&stand);
    let expected = tree::read(&root);
    let file = |name: &str| stand.dir.path().join(name);
    tar(&root, &file("pax"), &[&XATTRS[..], &["--format=pax", "--sparse"]].concat());
    tar(&root, &file("pax-0.1"), &[&XATTRS[..], &["--sparse", "--sparse-version=0.1"]].concat());
    tar(&root, &file("pax-0.0"), &[&XATTRS[..], &["--sparse", "--sparse-version=0.0"]].concat());
    // As tapes and `dd conv=sync` leave it.
    tar(&root, &file("padded"), &[&XATTRS[..], &["-z", "--label=a volume"]].concat());
    let length = std::fs::metadata(file("padded")).unwrap().len();
    let padded = std::fs::File::options().write(true).open(file("padded")).unwrap();
    padded.set_len(length + 10240).unwrap();
    tar(&root, &file("tgz"), &[&XATTRS[..], &["-z"]].concat());
    tar(&root, &file("txz"), &[&XATTRS[..], &["-J", "--sparse"]].concat());
    bsdtar(&root, &file("bsd"), &["--xattrs"]);
    bsdtar(&root, &file("bsd-zst"), &["--xattrs", "--zstd"]);
    run(Command::new("mksquashfs").arg(&root).arg(file("squashfs")).args([
        "-quiet",
        "-no-progress",
        "-comp",
        "zstd",
    ]));
    for name in
        ["pax", "pax-0.0", "pax-0.1", "padded", "tgz", "txz", "bsd", "bsd-zst", "squashfs", "root"]
    {
        let id = import(&stand, name, &file(name)).await;
        let got = file(&format!("got-{name}"));
        succeeds(&stand, &["image", "get", &id, path(&got)]).await;
        let unpacked = file(&format!("unpacked-{name}"));
        tree::unsquash(&got.join("rootfs"), &unpacked);
        tree::assert_same(&tree::read(&unpacked), &expected);
        let boot = root.join("boot");
        for (artifact, source) in [
            ("kernel", "vmlinuz-6.1.0"),
            ("initrd", "initrd.img-6.1.0"),
            ("boot_parameters", "kernel-parameters"),
        ] {
            let same = std::fs::read(got.join(artifact)).unwrap();
            assert!(same == std::fs::read(boot.join(source)).unwrap(), "{name}: {artifact}");
        }
        assert_eq!(stand.ims.get(&format!("v3/images/{id}")).await["arch"], std::env::consts::ARCH);
    }
    // Without attributes: GNU tar's own format has no place for them.
    tar(&root, &file("gnu"), &["--format=gnu", "--sparse"]);
    let id = import(&stand, "gnu", &file("gnu")).await;
    succeeds(&stand, &["image", "get", &id, path(&file("got-gnu"))]).await;
    tree::unsquash(&file("got-gnu/rootfs"), &file("unpacked-gnu"));
    let mut without = expected;
    without.values_mut().for_each(|entry| entry.xattrs.clear());
    tree::assert_same(&tree::read(&file("unpacked-gnu")), &without);
}

async fn the_same_again_is_found_unless_forced(objects: Objects) {
    let stand = Stand::start(objects).await;
    let root = small_root(&stand);
    let archive = stand.dir.path().join("a.tar");
    tar(&root, &archive, &[]);
    let arguments = ["image", "import", "--name", "again", path(&archive)];
    let first = succeeds(&stand, &arguments).await;
    assert_eq!(first["existing"], false);
    let second = succeeds(&stand, &arguments).await;
    assert_eq!(second["existing"], true);
    assert_eq!(first["ims_image_record"]["id"], second["ims_image_record"]["id"]);
    let kernel = stand.dir.path().join("kernel");
    std::fs::write(&kernel, "another kernel").unwrap();
    let other = succeeds(&stand, &[&arguments[..], &["--kernel", path(&kernel)]].concat()).await;
    assert_eq!(other["existing"], false);
    let forced = succeeds(&stand, &[&arguments[..], &["--force"]].concat()).await;
    assert_ne!(forced["ims_image_record"]["id"], first["ims_image_record"]["id"]);
    assert_eq!(crate::run::images(&stand).await.len(), 3);
}

async fn what_kiwi_leaves_is_imported(objects: Objects) {
    let stand = Stand::start(objects).await;
    let root = small_root(&stand);
    let result = stand.dir.path().join("kiwi");
    std::fs::create_dir_all(result.join("build")).unwrap();
    for name in ["kiwi.result", "kiwi.result.json", "img.x86_64-1.0.packages"] {
        std::fs::write(result.join(name), "{}").unwrap();
    }
    tar(&root, &result.join("img.x86_64-1.0.tar.xz"), &["-J"]);
    import(&stand, "kiwi", &result).await;
    // Two images in it: which one is meant?
    tar(&root, &result.join("img.x86_64-1.0.tar.gz"), &["-z"]);
    let log = fails(&stand, &["image", "import", "--name", "kiwi", path(&result)]).await;
    assert!(log.contains("2 images"), "{log}");
}

/// Numbers that do not fit in octal digits, and those that do not fit in squashfs.
async fn numbers_of_every_size_are_kept_or_told(objects: Objects) {
    let stand = Stand::start(objects).await;
    let root = small_root(&stand);
    let etc = root.join("etc");
    for (name, owner, mtime) in [
        ("large", 3_000_000_000u32, 4_000_000_000i64),
        ("base-256", (1 << 21) + 1, 1),
        ("early", 0, -86_400),
        ("late", 0, 1 << 40),
    ] {
        std::fs::write(etc.join(name), name).unwrap();
        std::os::unix::fs::chown(etc.join(name), Some(owner), Some(owner)).unwrap();
        let touch = format!("--date=@{mtime}");
        run(Command::new("touch").arg(touch).arg(etc.join(name)));
    }
    for format in ["gnu", "pax"] {
        let archive = stand.dir.path().join(format);
        tar(&root, &archive, &["--numeric-owner", &format!("--format={format}")]);
        let arguments = ["image", "import", "--name", format, path(&archive)];
        let imported = succeeds(&stand, &arguments).await;
        let notes = imported["notes"].to_string();
        assert!(notes.contains("after 2106: changed those of 2 entries"), "{notes}");
        let got = stand.dir.path().join(format!("got-{format}"));
        let id = imported["ims_image_record"]["id"].as_str().unwrap();
        succeeds(&stand, &["image", "get", id, path(&got)]).await;
        tree::unsquash(&got.join("rootfs"), &got.join("root"));
        let tree = tree::read(&got.join("root"));
        let entry = |name: &str| {
            let entry = &tree[&Path::new("./etc").join(name)];
            (entry.owner.0, entry.mtime)
        };
        assert_eq!(entry("large"), (3_000_000_000, 4_000_000_000));
        assert_eq!(entry("base-256"), ((1 << 21) + 1, 1));
        assert_eq!((entry("early").1, entry("late").1), (0, i64::from(u32::MAX)));
    }
}

crate::on_both_stores! {
    numbers_of_every_size_are_kept_or_told
    every_form_of_a_root_becomes_the_same_image
    the_same_again_is_found_unless_forced
    what_kiwi_leaves_is_imported
}
