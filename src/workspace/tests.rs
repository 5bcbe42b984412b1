//! Whole workspaces on real mounts and real squashfs images; needs root and squashfs-tools.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use tokio_util::sync::CancellationToken;

use super::open::image_id;
use super::*;
use linux::capability::CapSet;
use squashfs::external;
use squashfs::test_tree::{self, Listing, sh};

/// A job's directory with a packed image in it, and the tree that the image was made of.
struct Job {
    dir: tempfile::TempDir,
    image: PathBuf,
    tree: PathBuf,
}

impl Job {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (tree, image) = (dir.path().join("tree"), dir.path().join("rootfs.sqsh"));
        test_tree::make(&tree);
        pack(&tree, &image);
        Self { dir, image, tree }
    }

    fn parent(&self) -> PathBuf {
        self.dir.path().join("mnt image")
    }

    fn open_as(&self, job_id: &str, mode: Mode) -> Result<Workspace, Error> {
        self.open_in(&self.parent(), job_id, mode)
    }

    fn open_in(&self, parent: &Path, job_id: &str, mode: Mode) -> Result<Workspace, Error> {
        let cancel = &CancellationToken::new();
        let (image, image_md5) = (&self.image, "00ff");
        open(claim(parent, job_id)?, &Options { image, image_md5, mode, board: None, cancel })
    }

    fn open(&self, mode: Mode) -> Workspace {
        self.open_as("job", mode).unwrap()
    }
}

fn pack(root: &Path, out: &Path) {
    let (meter, cancel) = (&(), &CancellationToken::new());
    let pack = external::Pack { root, out, threads: 2, memory: None, meter, cancel };
    external::pack(&pack).unwrap();
}

fn unpack(image: &Path, root: &Path) {
    let (meter, cancel) = (&(), &CancellationToken::new());
    external::unpack(&external::Unpack { image, root, threads: 2, meter, cancel }).unwrap();
}

#[test]
fn both_kinds_of_image_root_equal_the_tree_that_was_packed() {
    let job = Job::new();
    let expected = Listing::of(&job.tree);
    for mode in [Mode::Overlay, Mode::Unpack] {
        let mut workspace = job.open(mode);
        assert!(!workspace.resumed());
        expected.assert_same(&Listing::of(&workspace.root()));
        workspace.close(Cleanup::Remove).unwrap();
        assert!(!workspace.root().exists());
        assert!(!workspace.layout().agent().exists());
    }
}

/// What users do, on everything that an overlay treats in a way of its own.
const EDITS: &str = r#"
    echo more >> usr/hard-a
    chmod 0640 usr/hard-b
    ln usr/hard-c etc/hard-d
    rm usr/large
    rm -r var/gone; mkdir var/gone; echo new > var/gone/new
    python3 -c 'import os; os.rename("usr/dir", "var/moved"); os.rename("var/moved/deep", "etc/deep")'
    echo x > var/moved/added
    rm etc/link; mkdir etc/link
    rm -r etc/swap; ln -s /nowhere etc/swap
    mknod dev/new b 7 200; mkfifo var/fifo2
    setfattr -n user.new -v value usr/plain
    setfattr -x trusted.t usr/attributes
    chown 12:34 usr/setuid; chmod 4711 usr/setuid
    setfattr -n user.root -v r . ; chmod 0711 .
    cp -a usr/plain usr/copy
    truncate -s 10 usr/sparse
    find . -xdev -newermt '2020-01-01' -exec touch -h -d @1700000000 {} +
"#;

#[test]
fn a_packed_image_root_equals_a_plain_tree_that_was_edited_alike() {
    let job = Job::new();
    sh(EDITS, &job.tree);
    let expected = Listing::of(&job.tree);
    for mode in [Mode::Overlay, Mode::Unpack] {
        let mut workspace = job.open(mode);
        sh(EDITS, &workspace.root());
        expected.assert_same(&Listing::of(&workspace.root()));
        let (out, again) = (workspace.layout().result(), job.dir.path().join("again"));
        pack(&workspace.root(), &out);
        unpack(&out, &again);
        expected.assert_same(&Listing::of(&again));
        remove::tree(&again).unwrap();
        workspace.close(Cleanup::Remove).unwrap();
    }
}

#[test]
fn an_overlay_is_ready_in_well_under_a_second() {
    let job = Job::new();
    let start = std::time::Instant::now();
    let workspace = job.open(Mode::Auto);
    assert!(start.elapsed() < std::time::Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(workspace.kind(), Kind::Overlay);
    assert_eq!(workspace.layout().agent().metadata().unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn programs_and_devices_work_in_an_overlay() {
    let job = Job::new();
    let workspace = job.open(Mode::Overlay);
    std::fs::write(workspace.root().join("dev/null"), "into the void").unwrap();
    std::fs::copy("/bin/true", workspace.root().join("true")).unwrap();
    assert!(Command::new(workspace.root().join("true")).status().unwrap().success());
}

#[test]
fn a_later_run_of_the_same_job_finds_the_users_work() {
    let job = Job::new();
    for mode in [Mode::Overlay, Mode::Unpack] {
        let mut first = job.open(mode);
        sh("echo work > etc/work; rm usr/plain; echo more >> usr/hard-a", &first.root());
        let left = Listing::of(&first.root());
        first.close(Cleanup::Keep).unwrap();
        drop(first);
        let mut second = job.open(Mode::Auto);
        assert!(second.resumed());
        left.assert_same(&Listing::of(&second.root()));
        second.close(Cleanup::Keep).unwrap();
        drop(second);
        let mut third = reopen_with_image(&job);
        assert_eq!(third.state().job_id, "job");
        left.assert_same(&Listing::of(&third.root()));
        third.close(Cleanup::Remove).unwrap();
    }
}

/// `reopen` looks for the image where `job` puts it.
fn reopen_with_image(job: &Job) -> Workspace {
    std::fs::copy(&job.image, Layout::new(&job.parent()).image()).unwrap();
    reopen(&job.parent(), &CancellationToken::new()).unwrap()
}

#[test]
fn dropping_a_workspace_leaves_the_work_and_no_mount() {
    let job = Job::new();
    let workspace = job.open(Mode::Overlay);
    std::fs::write(workspace.root().join("work"), "").unwrap();
    drop(workspace);
    assert!(linux::mountinfo::at_or_below(&job.parent()).unwrap().is_empty());
    assert!(job.open(Mode::Overlay).root().join("work").exists());
}

#[test]
fn mounts_that_a_killed_run_left_are_undone() {
    let job = Job::new();
    job.open(Mode::Overlay).close(Cleanup::Keep).unwrap();
    let layout = Layout::new(&job.parent());
    for path in [layout.lower(), layout.root()] {
        let flags = linux::mount::MsFlags::empty();
        let source = Path::new("tmpfs");
        linux::mount::Mounted::new("tmpfs", source, &path, flags, None).unwrap().forget();
    }
    let workspace = job.open(Mode::Overlay);
    Listing::of(&job.tree).assert_same(&Listing::of(&workspace.root()));
}

#[test]
fn the_work_of_others_is_refused_and_kept() {
    let job = Job::new();
    let first = job.open(Mode::Overlay);
    assert!(matches!(job.open_as("job", Mode::Auto).unwrap_err(), Error::InUse { .. }));
    std::fs::write(first.root().join("work"), "").unwrap();
    drop(first);
    let error = job.open_as("other", Mode::Auto).unwrap_err();
    assert!(error.to_string().contains("work of job job, this is job other"), "{error}");
    assert!(matches!(job.open_as("job", Mode::Unpack).unwrap_err(), Error::OtherKind { .. }));
    sh("printf xxxx >> rootfs.sqsh", job.dir.path());
    assert!(matches!(job.open_as("job", Mode::Auto).unwrap_err(), Error::OtherImage { .. }));
    assert!(Layout::new(&job.parent()).upper().join("work").exists());
}

#[test]
fn a_root_that_nobody_wrote_down_is_not_touched() {
    let job = Job::new();
    let root = Layout::new(&job.parent()).root();
    std::fs::create_dir_all(root.join("precious")).unwrap();
    for mode in [Mode::Auto, Mode::Overlay, Mode::Unpack] {
        assert!(matches!(job.open_as("job", mode).unwrap_err(), Error::RootNotEmpty { .. }));
    }
    assert!(root.join("precious").exists());
}

#[test]
fn a_half_made_root_is_made_again() {
    let job = Job::new();
    for kind in [Kind::Unpacked, Kind::Overlay] {
        let layout = Layout::new(&job.parent());
        layout.make_agent_dir().unwrap();
        let id = image_id(&job.image, "00ff").unwrap();
        State::new("job", id, kind).save(&layout).unwrap();
        sh("mkdir -p image-root/half .ims-job-agent/upper/half", &job.parent());
        for mode in [Mode::Unpack, Mode::Overlay] {
            let mut workspace = job.open(mode);
            assert!(!workspace.resumed());
            Listing::of(&job.tree).assert_same(&Listing::of(&workspace.root()));
            workspace.close(Cleanup::Remove).unwrap();
        }
    }
}

#[test]
fn nothing_to_go_on_with_is_said() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(
        reopen(dir.path(), &CancellationToken::new()).unwrap_err(),
        Error::NothingToReopen { .. }
    ));
}

#[test]
fn broken_images_are_refused_before_anything_is_made() {
    let job = Job::new();
    sh("truncate -s 5000 rootfs.sqsh", job.dir.path());
    let error = job.open_as("job", Mode::Auto).unwrap_err();
    assert!(matches!(error, Error::Truncated { size: 5000, .. }), "{error}");
    sh("echo hello > rootfs.sqsh", job.dir.path());
    let error = job.open_as("job", Mode::Auto).unwrap_err();
    assert!(matches!(error, Error::NotSquashfs { .. }), "{error}");
    assert!(!Layout::new(&job.parent()).root().exists());
}

#[test]
fn where_an_overlay_cannot_be_the_image_is_unpacked() {
    let job = Job::new();
    let dir = tempfile::tempdir().unwrap();
    sh("mkdir l u w m; mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m", dir.path());
    let parent = dir.path().join("m/parent");
    let explicit = job.open_in(&parent, "job", Mode::Overlay).unwrap_err();
    let text = crate::telemetry::chain(&explicit);
    let mut workspace = job.open_in(&parent, "job", Mode::Auto).unwrap();
    let kind = workspace.kind();
    let listing = Listing::of(&workspace.root());
    workspace.close(Cleanup::Remove).unwrap();
    drop(workspace);
    sh("umount m", dir.path());
    assert!(text.contains("(overlay)"), "{text}");
    assert_eq!(kind, Kind::Unpacked);
    Listing::of(&job.tree).assert_same(&listing);
}

#[test]
fn without_the_privilege_to_mount_the_image_is_unpacked() {
    let job = Job::new();
    // Without trusted attributes, which the same privilege is needed for.
    sh("setfattr -x trusted.t usr/attributes; setfattr -x trusted.root .", &job.tree);
    pack(&job.tree, &job.image);
    let (explicit, kind, listing) = without_sys_admin(|| {
        let explicit = job.open_as("job", Mode::Overlay).unwrap_err();
        let mut workspace = job.open_as("job", Mode::Auto).unwrap();
        let listing = Listing::of(&workspace.root());
        workspace.close(Cleanup::Remove).unwrap();
        (crate::telemetry::chain(&explicit), workspace.kind(), listing)
    });
    assert!(explicit.contains("EPERM"), "{explicit}");
    assert_eq!(kind, Kind::Unpacked);
    Listing::of(&job.tree).assert_same(&listing);
}

#[test]
fn attributes_that_cannot_be_kept_are_an_error_and_leave_nothing() {
    let job = Job::new();
    let error = without_sys_admin(|| job.open_as("job", Mode::Unpack).unwrap_err());
    let text = crate::telemetry::chain(&error);
    assert!(text.contains("trusted.t"), "{text}");
    assert!(!Layout::new(&job.parent()).root().exists());
    assert!(State::load(&Layout::new(&job.parent())).unwrap().is_none());
}

/// Runs `work` in a thread that has lost CAP_SYS_ADMIN for itself and its children.
fn without_sys_admin<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            CapSet::effective().unwrap().without(CapSet::SYS_ADMIN).keep_only().unwrap();
            work()
        });
        thread.join().unwrap()
    })
}

#[test]
fn a_path_that_cannot_stand_in_mount_options_is_mounted_all_the_same() {
    let job = Job::new();
    for name in ["a,b", "a:b", "a\\b", "a,upperdir=b", "a\nb"] {
        let parent = job.dir.path().join(name);
        let mut workspace = job.open_in(&parent, "job", Mode::Overlay).unwrap();
        Listing::of(&job.tree).assert_same(&Listing::of(&workspace.root()));
        workspace.close(Cleanup::Remove).unwrap();
    }
}

#[test]
fn closing_a_busy_root_names_who_uses_it_and_can_be_tried_again() {
    let job = Job::new();
    let mut workspace = job.open(Mode::Overlay);
    let mut child = Command::new("sleep").arg("600").current_dir(workspace.root()).spawn().unwrap();
    let error = workspace.close(Cleanup::Remove).unwrap_err();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(error.to_string().contains(&format!("sleep ({})", child.id())), "{error}");
    assert!(workspace.root().join("etc").exists());
    workspace.close(Cleanup::Remove).unwrap();
}

#[test]
fn who_holds_the_overlay_in_another_namespace_is_waited_for_and_named() {
    let job = Job::new();
    let mut workspace = job.open(Mode::Overlay);
    std::fs::write(workspace.root().join("work"), "").unwrap();
    let mut holder = Command::new("unshare");
    let script = "echo; exec sleep 600";
    let mut holder = holder
        .args(["--mount", "sh", "-c", script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    workspace.close(Cleanup::Keep).unwrap();
    drop(workspace);
    let error = job.open_as("job", Mode::Auto).unwrap_err();
    let (id, text) = (holder.id(), error.to_string());
    #[allow(clippy::disallowed_methods, reason = "a thread of its own sleeps")]
    let end = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(300));
        holder.kill().unwrap();
        holder.wait().unwrap();
    });
    let opened = job.open_as("job", Mode::Auto);
    end.join().unwrap();
    assert!(text.contains(&format!("sleep ({id}) has it mounted")), "{text}");
    assert!(opened.unwrap().root().join("work").exists());
}

#[test]
fn a_small_volume_is_told_with_numbers() {
    let job = Job::new();
    let dir = tempfile::tempdir().unwrap();
    sh("mkdir m; mount -t tmpfs -o size=64k tmpfs m", dir.path());
    let error = job.open_in(&dir.path().join("m"), "job", Mode::Auto).unwrap_err();
    sh("umount m", dir.path());
    let text = error.to_string();
    assert!(text.contains("not enough space") && text.contains("KiB free"), "{text}");
}

#[test]
fn a_volume_that_fills_up_while_unpacking_is_told_and_left_clean() {
    let job = Job::new();
    let dir = tempfile::tempdir().unwrap();
    let packed = job.image.metadata().unwrap().len();
    // Enough for the preflight, not for the tree.
    let size = packed * 2 + 200_000;
    sh(&format!("mkdir m; mount -t tmpfs -o size={size} tmpfs m"), dir.path());
    let error = job.open_in(&dir.path().join("m"), "job", Mode::Unpack).unwrap_err();
    let left = dir.path().join("m/image-root").exists();
    sh("umount m", dir.path());
    let text = crate::telemetry::chain(&error);
    assert!(text.contains("no space left for"), "{text}");
    assert!(!left);
}

#[test]
fn a_tree_with_a_mount_in_it_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    sh("mkdir -p tree/mounted; echo x > tree/file; mount -t tmpfs tmpfs tree/mounted", dir.path());
    let error = remove::tree(&dir.path().join("tree")).unwrap_err();
    sh("umount tree/mounted", dir.path());
    assert!(matches!(error, Error::MountedInside { .. }), "{error}");
    assert!(dir.path().join("tree/file").exists());
    remove::tree(&dir.path().join("tree")).unwrap();
    assert!(!dir.path().join("tree").exists());
}

#[test]
fn the_agents_directory_is_closed_even_if_it_was_open() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path());
    std::fs::create_dir(layout.agent()).unwrap();
    std::fs::set_permissions(layout.agent(), std::fs::Permissions::from_mode(0o755)).unwrap();
    layout.make_agent_dir().unwrap();
    assert_eq!(layout.agent().metadata().unwrap().mode() & 0o7777, 0o700);
}
