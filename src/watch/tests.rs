//! Signals as users and their tools give them; needs root for the overlay.

use std::fs;
use std::path::Path;
use std::time::Instant;

use super::*;
use squashfs::test_tree::sh;

/// A job's directory with a root that has a `/tmp`.
fn job() -> (tempfile::TempDir, Places) {
    let dir = tempfile::tempdir().unwrap();
    let parent = dir.path().to_path_buf();
    let root = parent.join("image-root");
    fs::create_dir_all(root.join("tmp")).unwrap();
    (dir, Places { parent, root, build_failed: false })
}

/// The next signal, which must come long before a scan would find it.
async fn soon(signals: &mut Signals) -> Signal {
    let start = Instant::now();
    let signal = tokio::time::timeout(Duration::from_secs(10), signals.next()).await.unwrap();
    // 100 ms is what is promised; a loaded machine gets some more.
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    signal
}

/// The watches without the scan: what wakes them was seen by inotify.
struct Bare {
    watched: Watched,
    woken: Receiver<()>,
}

impl Bare {
    fn on(places: &Places) -> Self {
        let (wake, woken) = bounded(1);
        let mut watched = Watched::new(wake);
        watched.renew(places);
        Self { watched, woken }
    }

    /// Lets what has happened so far pass.
    fn settle(&mut self, places: &Places) {
        while self.woken.recv_timeout(Duration::from_millis(100)).is_ok() {}
        self.watched.renew(places);
    }

    /// Does something that makes a signal file, which must wake us.
    #[track_caller]
    fn assert_wakes(&self, places: &Places, act: impl FnOnce()) {
        act();
        let start = Instant::now();
        loop {
            self.woken.recv_timeout(Duration::from_secs(10)).expect("nothing was seen");
            if places.look().is_some() {
                break;
            }
        }
        // 100 ms is what is promised; a loaded machine gets some more.
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    }
}

fn complete(path: &Path) -> Signal {
    Signal { kind: Kind::Complete, path: path.into() }
}

#[test]
fn every_way_to_make_the_file_is_seen_at_once() {
    for way in [
        "touch tmp/complete",
        "echo now > tmp/complete",
        "echo now > tmp/.ansible_tmp1 && mv tmp/.ansible_tmp1 tmp/complete",
        "echo now > elsewhere && mv elsewhere tmp/complete",
        "echo now > tmp/x && ln tmp/x tmp/complete",
        "ln -s /nowhere tmp/complete",
        "mkfifo tmp/complete",
        "cp /etc/hostname tmp/complete",
    ] {
        let (_dir, places) = job();
        Bare::on(&places).assert_wakes(&places, || sh(way, &places.root));
        assert_eq!(places.look(), Some(complete(&places.root.join("tmp/complete"))), "{way}");
    }
    let (_dir, places) = job();
    Bare::on(&places).assert_wakes(&places, || sh("touch complete", &places.parent));
}

#[tokio::test]
async fn both_directories_count_and_so_does_what_was_there_before() {
    let (_dir, places) = job();
    for (file, signal) in [
        ("complete", complete(&places.parent.join("complete"))),
        ("failed", Signal { kind: Kind::Failed, path: places.parent.join("failed") }),
        ("image-root/tmp/complete", complete(&places.root.join("tmp/complete"))),
        (
            "image-root/tmp/failed",
            Signal { kind: Kind::Failed, path: places.root.join("tmp/failed") },
        ),
    ] {
        fs::write(places.parent.join(file), "").unwrap();
        assert_eq!(soon(&mut Signals::start(places.clone()).unwrap()).await, signal);
        fs::remove_file(places.parent.join(file)).unwrap();
        let mut signals = Signals::start(places.clone()).unwrap();
        fs::write(places.parent.join(file), "").unwrap();
        assert_eq!(soon(&mut signals).await, signal);
        fs::remove_file(places.parent.join(file)).unwrap();
    }
}

#[tokio::test]
async fn failed_wins_wherever_it_is_and_whenever_it_comes() {
    let (_dir, places) = job();
    fs::write(places.parent.join("complete"), "").unwrap();
    fs::write(places.root.join("tmp/failed"), "").unwrap();
    let failed = Signal { kind: Kind::Failed, path: places.root.join("tmp/failed") };
    assert_eq!(soon(&mut Signals::start(places.clone()).unwrap()).await, failed);
    fs::remove_file(places.root.join("tmp/failed")).unwrap();
    let mut signals = Signals::start(places.clone()).unwrap();
    assert_eq!(soon(&mut signals).await, complete(&places.parent.join("complete")));
    fs::write(places.root.join("tmp/failed"), "").unwrap();
    assert_eq!(soon(&mut signals).await, failed);
}

#[tokio::test]
async fn build_failed_counts_only_where_it_is_asked_for() {
    let (_dir, mut places) = job();
    fs::write(places.parent.join("build_failed"), "").unwrap();
    assert_eq!(places.look(), None);
    places.build_failed = true;
    let failed = Signal { kind: Kind::BuildFailed, path: places.parent.join("build_failed") };
    assert_eq!(soon(&mut Signals::start(places).unwrap()).await, failed);
}

#[test]
fn a_tmp_that_is_replaced_is_watched_again() {
    for (replace, at) in [
        ("rm -rf tmp; mkdir tmp", "tmp"),
        ("mv tmp old; mkdir tmp", "tmp"),
        ("rmdir tmp; mkdir -p var/tmp; ln -s var/tmp tmp", "var/tmp"),
        // As a jailed user sees it; to this test the link leads to the machine's own.
        ("rmdir tmp; mkdir -p var/tmp; ln -s /var/tmp tmp", "var/tmp"),
    ] {
        let (_dir, places) = job();
        let mut bare = Bare::on(&places);
        sh(replace, &places.root);
        bare.woken.recv_timeout(Duration::from_secs(10)).expect("the change of the root is seen");
        bare.settle(&places);
        let file = places.root.join(at).join("complete");
        bare.assert_wakes(&places, || std::fs::write(file, "").unwrap());
    }
}

#[test]
fn a_link_that_leaves_the_root_is_not_followed() {
    let (dir, places) = job();
    sh("mkdir outside; touch outside/complete; rmdir image-root/tmp", dir.path());
    std::os::unix::fs::symlink(dir.path().join("outside"), places.root.join("tmp")).unwrap();
    assert_eq!(places.look(), None);
}

#[test]
fn a_directory_of_that_name_is_no_signal() {
    let (_dir, places) = job();
    sh("mkdir complete image-root/tmp/failed", &places.parent);
    assert_eq!(places.look(), None);
}

/// A `/tmp` that comes from the image is copied up when the first file is created in it, after the
/// watch was set on it; the session that does it has its own mount namespace and root.
#[test]
fn a_file_made_in_an_overlay_by_a_session_is_seen_at_once() {
    let (dir, places) = job();
    sh(
        "mkdir -p tree/tmp upper work squash; chmod 1777 tree/tmp
         mksquashfs tree l.sqsh -quiet -no-progress > /dev/null; mount -o loop,ro l.sqsh squash
         mount -t overlay o -o lowerdir=squash,upperdir=upper,workdir=work,index=on image-root",
        dir.path(),
    );
    let bare = Bare::on(&places);
    let seen = std::panic::catch_unwind(|| {
        bare.assert_wakes(&places, || {
            // Bind-mounted elsewhere in a namespace of its own: another mount, the same overlay.
            sh(
                "mkdir jail; unshare -m --propagation private bash -ec \
                 'mount --bind image-root jail; cd jail; touch tmp/complete'",
                dir.path(),
            );
        });
    });
    let copied_up = dir.path().join("upper/tmp/complete").exists();
    drop(bare);
    sh("umount image-root squash", dir.path());
    assert!(seen.is_ok());
    assert!(copied_up);
}

#[tokio::test]
async fn without_inotify_a_scan_finds_the_file() {
    let (_dir, places) = job();
    let (sender, mut found) = watch::channel(None);
    let (stop, stopped) = bounded(0);
    let (_wake, woken) = bounded(1);
    let blind = Watched::blind();
    let thread = {
        let places = places.clone();
        std::thread::spawn(move || run(&places, blind, &woken, &stopped, &sender))
    };
    sh("touch tmp/complete", &places.root);
    let deadline = Duration::from_secs(10);
    tokio::time::timeout(deadline, found.wait_for(Option::is_some)).await.unwrap().unwrap();
    drop(stop);
    thread.join().unwrap();
}

#[test]
fn an_image_root_can_be_unmounted_as_soon_as_the_watch_is_dropped() {
    let (_dir, places) = job();
    for _ in 0..5 {
        sh("mount -t tmpfs tmpfs image-root; mkdir image-root/tmp", &places.parent);
        drop(Signals::start(places.clone()).unwrap());
        sh("umount image-root", &places.parent);
    }
}
