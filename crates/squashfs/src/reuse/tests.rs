//! Reuse packs are compared with full packs of the changed tree, and searched for what was deleted.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::super::read::{BlockReader, Image};
use super::super::testing::nasty::{make, noise, text};
use super::super::testing::{
    Mounted, Overlaid, assert_same, directory, image, overlaid, pack, tool,
};
use super::super::write::Options;
use super::{Changes, Outcome, Record};

/// A base image and a mounted overlay on it.
struct Lab {
    dir: TempDir,
    base: PathBuf,
}

impl Lab {
    fn new(fill: impl Fn(&Path)) -> Self {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        fill(&root);
        let base = dir.path().join("base.sqsh");
        pack(&root, &base, &Options::default());
        Self { dir, base }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Changes the tree through a real overlay, packs it from the upper layer, and compares.
    fn overlay(&self, mount_options: &str, change: impl Fn(&Path)) -> PathBuf {
        let Overlaid { upper, work, seen: expected } =
            overlaid(&self.base, self.dir.path(), mount_options, change);
        let out = self.path("new.sqsh");
        let changes = Changes::Overlay { upper: &upper, work: Some(&work) };
        let outcome = self.reuse(changes, &self.path("merged"), &out);
        assert!(!outcome.ranges.is_empty(), "the base was not used");
        self.check_ranges(&outcome, &out);
        assert_same(&image(&out), &expected, "our reader");
        let mount = self.path("mnt");
        let _mounted = Mounted::new(&out, &mount);
        assert_same(&directory(&mount), &expected, "the kernel");
        out
    }

    /// Changes the unpacked base and packs it in each of the ways for plain directories.
    fn unpacked(&self, change: impl Fn(&Path)) -> PathBuf {
        let root = self.path("unpacked");
        let cancel = CancellationToken::new();
        super::super::unpack(&self.base, &root, None, &(), &cancel).unwrap();
        let record = Record::new(&self.base, &root).unwrap();
        change(&root);
        let expected = directory(&root);
        let out = self.path("new.sqsh");
        for changes in [Changes::Recorded(&record), Changes::Content, Changes::Quick] {
            let outcome = self.reuse(changes, &root, &out);
            assert!(!outcome.ranges.is_empty(), "the base was not used");
            self.check_ranges(&outcome, &out);
            assert_same(&image(&out), &expected, &format!("our reader, {changes:?}"));
        }
        self.reuse(Changes::Content, &root, &out);
        out
    }

    fn reuse(&self, changes: Changes, root: &Path, out: &Path) -> Outcome {
        let cancel = CancellationToken::new();
        let options = Options::default();
        super::pack(&self.base, changes, root, out, &options, &(), &cancel).unwrap()
    }

    /// The ranges that could be copied inside an object store really are the same bytes.
    fn check_ranges(&self, outcome: &Outcome, out: &Path) {
        let (old, new) = (fs::read(&self.base).unwrap(), fs::read(out).unwrap());
        for range in &outcome.ranges {
            let (from, to) = (range.base as usize, range.new as usize);
            let length = range.length as usize;
            assert_eq!(old[from..from + length], new[to..to + length], "{range:?}");
        }
    }
}

/// True if the bytes are anywhere in the image, in any block, compressed or not, of any file or none.
fn holds(path: &Path, canary: &[u8]) -> bool {
    let found = |bytes: &[u8]| bytes.windows(canary.len()).any(|window| window == canary);
    if found(&fs::read(path).unwrap()) {
        return true;
    }
    let image = Image::open(path).unwrap();
    let mut reader = BlockReader::new(&image).unwrap();
    let count = image.superblock().fragment_count;
    let in_fragments = (0..count).any(|number| found(&reader.fragment(number).unwrap()));
    let mut in_files = false;
    image
        .inodes(|_, inode| {
            if let super::super::format::Kind::File(file) = inode.kind {
                reader.file::<super::super::read::Error>(&file, |_, bytes| {
                    in_files |= found(bytes);
                    Ok(())
                })?;
            }
            Ok(())
        })
        .unwrap();
    in_fragments || in_files
}

const CANARY: &[u8] = b"the quick canary sings 0123456789";

fn with_canaries(root: &Path) {
    make(root);
    fs::create_dir(root.join("secrets")).unwrap();
    for name in ["deleted", "changed", "kept", "directory/below"] {
        let path = root.join("secrets").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, [format!("{name}: ").as_bytes(), CANARY].concat()).unwrap();
    }
    // In blocks of its own, raw and compressed.
    fs::write(root.join("secrets/raw"), [&noise(77, 200_000), CANARY].concat()).unwrap();
    fs::write(root.join("secrets/long"), [&text(78, 400_000), CANARY].concat()).unwrap();
    for i in 0..50 {
        fs::write(root.join(format!("secrets/neighbour-{i}")), text(i, 900)).unwrap();
    }
}

fn remove_canaries(root: &Path) {
    let secrets = root.join("secrets");
    for name in ["deleted", "kept", "raw", "long"] {
        fs::remove_file(secrets.join(name)).unwrap();
    }
    fs::write(secrets.join("changed"), "nothing here").unwrap();
    fs::remove_dir_all(secrets.join("directory")).unwrap();
}

fn change_much(root: &Path) {
    remove_canaries(root);
    fs::write(root.join("plain"), "new content, and a link less").unwrap();
    fs::set_permissions(root.join("blocks.noise"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(root.join("below"), fs::Permissions::from_mode(0o640)).unwrap();
    xattr::set(root.join("exact"), "user.new", b"value").unwrap();
    fs::remove_file(root.join("twin-1")).unwrap();
    fs::remove_dir_all(root.join("many")).unwrap();
    fs::create_dir(root.join("many")).unwrap();
    fs::write(root.join("many/again"), text(5, 140_000)).unwrap();
    fs::remove_file(root.join("fifo")).unwrap();
    symlink("to nowhere", root.join("fifo")).unwrap();
    fs::remove_file(root.join("to-plain")).unwrap();
    fs::create_dir(root.join("to-plain")).unwrap();
    fs::write(root.join("sub/deeper/new"), noise(8, 300_000)).unwrap();
    fs::write(root.join("sparse"), text(1, 10)).unwrap();
    fs::rename(root.join("exact.noise"), root.join("sub/moved")).unwrap();
}

#[test]
fn an_overlay_is_packed_as_its_user_saw_it() {
    let lab = Lab::new(with_canaries);
    assert!(holds(&lab.base, CANARY));
    let out = lab.overlay("", change_much);
    assert!(!holds(&out, CANARY));
}

#[test]
fn redirected_directories_and_metadata_copies_are_followed() {
    let lab = Lab::new(with_canaries);
    let out = lab.overlay(",redirect_dir=on,metacopy=on", |root| {
        fs::rename(root.join("sub"), root.join("elsewhere")).unwrap();
        fs::rename(root.join("elsewhere/deeper"), root.join("elsewhere/shallower")).unwrap();
        fs::rename(root.join("elsewhere/shallower/still"), root.join("still")).unwrap();
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(root.join("blocks.noise"), mode).unwrap();
        fs::rename(root.join("blocks.noise"), root.join("still/renamed")).unwrap();
        remove_canaries(root);
    });
    assert!(!holds(&out, CANARY));
}

/// With an index a changed hard link shows under all of its names, those that nobody touched included.
#[test]
fn changed_hard_links_are_followed_through_the_index() {
    let lab = Lab::new(|root| {
        with_canaries(root);
        for name in ["appended", "gone", "mode", "moved", "unlinked", "kept"] {
            let file = root.join(name);
            fs::write(&file, text(name.len() as u64, 200_000)).unwrap();
            for other in ["sub/a", "z"] {
                fs::hard_link(&file, root.join(format!("{other}-{name}"))).unwrap();
            }
        }
        symlink("target", root.join("link")).unwrap();
        fs::hard_link(root.join("link"), root.join("z-link")).unwrap();
    });
    lab.overlay(",index=on,redirect_dir=on,metacopy=on,xino=auto", |root| {
        let append = |name: &str| {
            use std::io::Write;
            let mut file = fs::File::options().append(true).open(root.join(name)).unwrap();
            file.write_all(b"more").unwrap();
        };
        append("appended");
        append("gone");
        fs::remove_file(root.join("gone")).unwrap();
        fs::set_permissions(root.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(root.join("sub/a-moved"), root.join("elsewhere")).unwrap();
        append("elsewhere");
        fs::hard_link(root.join("elsewhere"), root.join("one-more")).unwrap();
        fs::remove_file(root.join("unlinked")).unwrap();
        std::os::unix::fs::lchown(root.join("link"), Some(7), Some(8)).unwrap();
    });
}

/// Changed files of several names lie in the overlay's index, and not in the upper layer.
#[test]
fn a_file_that_is_like_one_in_the_index_is_compared_with_it() {
    let lab = Lab::new(|root| {
        fs::write(root.join("kept"), noise(0, 400_000)).unwrap();
        fs::write(root.join("small-1"), "one").unwrap();
        fs::write(root.join("large-1"), noise(1, 200_000)).unwrap();
        for name in ["small", "large"] {
            let first = root.join(format!("{name}-1"));
            fs::hard_link(first, root.join(format!("{name}-2"))).unwrap();
        }
    });
    lab.overlay(",index=on,redirect_dir=on", |root| {
        for (name, content) in [("small", b"changed".to_vec()), ("large", noise(2, 200_000))] {
            fs::write(root.join(format!("{name}-2")), &content).unwrap();
            fs::write(root.join(format!("{name}-same")), &content).unwrap();
        }
        fs::write(root.join("large-other"), noise(3, 200_000)).unwrap();
    });
}

#[test]
fn attributes_of_other_overlays_are_the_users() {
    let lab = Lab::new(|root| {
        fs::write(root.join("kept"), noise(0, 400_000)).unwrap();
        for name in ["opaque", "redirect", "metacopy"] {
            fs::create_dir(root.join(name)).unwrap();
            fs::write(root.join(name).join("file"), name).unwrap();
        }
    });
    lab.overlay(",index=on,redirect_dir=on", |root| {
        for (name, value) in [("opaque", &b"y"[..]), ("redirect", b"/opaque")] {
            xattr::set(root.join(name), format!("user.overlay.{name}"), value).unwrap();
        }
        let file = root.join("metacopy/file");
        fs::write(&file, "changed").unwrap();
        xattr::set(&file, "user.overlay.metacopy", b"").unwrap();
    });
}

#[test]
fn an_unpacked_tree_is_packed_by_record_by_content_and_by_time() {
    let lab = Lab::new(with_canaries);
    let out = lab.unpacked(|root| {
        change_much(root);
        // Not through an overlay: there the two names do not show the same inode number.
        fs::hard_link(root.join("above.noise"), root.join("new-link")).unwrap();
    });
    assert!(!holds(&out, CANARY));
}

#[test]
fn nothing_changed_is_nothing_compressed() {
    let lab = Lab::new(with_canaries);
    let base = fs::metadata(&lab.base).unwrap().len();
    let out = lab.overlay("", |_| {});
    assert!(fs::metadata(out).unwrap().len().abs_diff(base) < 8192);
}

/// Content that changed without a trace in size and time is found by all but the quick check.
#[test]
fn a_change_that_hides_is_found_by_content_and_by_record() {
    let lab = Lab::new(|root| {
        fs::write(root.join("file"), text(1, 300_000)).unwrap();
        fs::write(root.join("other"), text(2, 300_000)).unwrap();
    });
    let root = lab.path("unpacked");
    let cancel = CancellationToken::new();
    super::super::unpack(&lab.base, &root, None, &(), &cancel).unwrap();
    let record = Record::new(&lab.base, &root).unwrap();
    let file = root.join("file");
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    let mut content = fs::read(&file).unwrap();
    content[250_000] ^= 1;
    fs::write(&file, content).unwrap();
    fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    let out = lab.path("new.sqsh");
    for changes in [Changes::Recorded(&record), Changes::Content] {
        lab.reuse(changes, &root, &out);
        assert_same(&image(&out), &directory(&root), &format!("{changes:?}"));
    }
}

#[test]
fn images_of_mksquashfs_serve_as_base() {
    let mut lab = Lab::new(with_canaries);
    let root = lab.path("root");
    for variant in [&[][..], &["-always-use-fragments"], &["-no-fragments"], &["-noD", "-noF"]] {
        lab.base = lab.path("base.sqsh");
        let paths = [root.to_str().unwrap(), lab.base.to_str().unwrap()];
        tool("mksquashfs", &[&paths[..], &["-noappend", "-no-progress"], variant].concat());
        let out = lab.unpacked(change_much);
        assert!(!holds(&out, CANARY), "{variant:?}");
        fs::remove_dir_all(lab.path("unpacked")).unwrap();
    }
}

#[test]
fn a_base_that_does_not_fit_or_is_damaged_is_not_used() {
    let lab = Lab::new(|root| fs::write(root.join("file"), text(1, 300_000)).unwrap());
    let (root, out) = (lab.path("root"), lab.path("new.sqsh"));
    let cancel = CancellationToken::new();
    let mut options = Options::default();
    options.settings.block_size = 4096;
    let outcome =
        super::pack(&lab.base, Changes::Content, &root, &out, &options, &(), &cancel).unwrap();
    assert!(outcome.ranges.is_empty());
    assert_same(&image(&out), &directory(&root), "other block size");
    // The merged tree is read then, so it must be there.
    let changes = Changes::Overlay { upper: &root, work: None };
    let packed = super::pack(&lab.base, changes, &root, &out, &options, &(), &cancel);
    assert!(packed.unwrap_err().to_string().contains("no overlay is mounted"));
    let mut bytes = fs::read(&lab.base).unwrap();
    let table = Image::open(&lab.base).unwrap().superblock().inode_table as usize;
    bytes[table + 10..table + 20].fill(0xff);
    fs::write(&lab.base, bytes).unwrap();
    let outcome = lab.reuse(Changes::Content, &root, &out);
    assert!(outcome.ranges.is_empty());
    assert_same(&image(&out), &directory(&root), "damaged");
}
