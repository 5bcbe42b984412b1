//! What goes in comes out again, on trees with every kind of `resolv.conf`; needs root.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;
use squashfs::test_tree::{Listing, sh};

/// A root, the agent's directory and a container's files.
struct Place {
    dir: tempfile::TempDir,
    root: PathBuf,
}

impl Place {
    /// `script` makes the image; everything in it then is old.
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        sh("mkdir root agent ca; echo 'nameserver 10.0.0.1' > resolv.conf", dir.path());
        sh("echo certificate > ca/certificate_authority.crt", dir.path());
        sh(script, &root);
        sh("find . -exec touch -h -d @1500000000 {} +", &root);
        Self { dir, root }
    }

    fn put_in(&self) -> Inserted {
        let path = self.dir.path();
        Inserted::put_in(
            &self.root,
            &path.join("agent"),
            &path.join("ca/certificate_authority.crt"),
            &path.join("resolv.conf"),
        )
        .unwrap()
    }

    /// Takes out what an earlier process put in.
    fn take_out_later(&self) {
        let loaded = Inserted::load(&self.root, &self.dir.path().join("agent")).unwrap();
        loaded.expect("nothing was put in").take_out().unwrap();
    }

    fn resolv(&self) -> String {
        fs::read_to_string(self.root.join("etc/resolv.conf")).unwrap()
    }
}

/// With the certificate in it already, so that nothing at all should change.
const CERTIFIED: &str =
    "mkdir -p etc/cray/ca tmp; echo certificate > etc/cray/ca/certificate_authority.crt; ";

#[test]
fn every_kind_of_original_comes_back_as_it_was() {
    for (original, replaced) in [
        ("", true),
        ("echo own > etc/resolv.conf; chmod 640 etc/resolv.conf; chown 3:4 etc/resolv.conf", true),
        ("echo own > etc/resolv.conf; setfattr -n trusted.x -v y etc/resolv.conf", true),
        ("ln -s ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf", true),
        ("ln -s /nowhere etc/resolv.conf; chown -h 5:6 etc/resolv.conf", true),
        ("echo 'nameserver 10.0.0.1' > etc/resolv.conf", true),
        (": > etc/resolv.conf", true),
        ("mkdir etc/resolv.conf; echo x > etc/resolv.conf/x", false),
        ("mv etc usr; ln -s usr etc", true),
    ] {
        let place = Place::new(&format!("{CERTIFIED}{original}"));
        let before = Listing::of(&place.root);
        drop(place.put_in());
        if replaced {
            assert_eq!(place.resolv(), "nameserver 10.0.0.1\n", "{original}");
        }
        place.take_out_later();
        before.assert_same(&Listing::of(&place.root));
        assert_eq!(fs::read_dir(place.dir.path().join("agent")).unwrap().count(), 0);
    }
}

#[test]
fn a_users_edit_is_kept_and_a_deletion_too() {
    for (edit, content) in [
        ("echo mine > etc/resolv.conf", Some("mine\n")),
        ("echo more >> etc/resolv.conf", Some("nameserver 10.0.0.1\nmore\n")),
        ("echo mine > etc/new; mv etc/new etc/resolv.conf", Some("mine\n")),
        ("echo mine > etc/mine; ln -sf mine etc/resolv.conf", Some("mine\n")),
        ("rm etc/resolv.conf", None),
        ("rm -r etc", None),
    ] {
        let place = Place::new("mkdir etc; echo own > etc/resolv.conf");
        let mut inserted = place.put_in();
        sh(edit, &place.root);
        inserted.take_out().unwrap();
        let found = fs::read_to_string(place.root.join("etc/resolv.conf")).ok();
        assert_eq!(found.as_deref(), content, "{edit}");
    }
}

#[test]
fn other_changes_in_etc_keep_their_time() {
    let place = Place::new(&format!("{CERTIFIED} echo own > etc/resolv.conf"));
    let mut inserted = place.put_in();
    sh("echo x > etc/new; touch -d @1600000000 etc", &place.root);
    inserted.take_out().unwrap();
    assert_eq!(place.resolv(), "own\n");
    assert_eq!(place.root.join("etc").metadata().unwrap().mtime(), 1_600_000_000);
}

#[test]
fn a_restarted_agent_keeps_the_first_original_and_brings_the_new_content() {
    let place = Place::new(&format!("{CERTIFIED} echo own > etc/resolv.conf"));
    let before = Listing::of(&place.root);
    drop(place.put_in());
    fs::write(place.dir.path().join("resolv.conf"), "nameserver 10.0.0.2\n").unwrap();
    drop(place.put_in());
    assert_eq!(place.resolv(), "nameserver 10.0.0.2\n");
    place.take_out_later();
    before.assert_same(&Listing::of(&place.root));
}

#[test]
fn a_restarted_agent_leaves_a_users_edit_alone() {
    let place = Place::new("mkdir etc; ln -s /nowhere etc/resolv.conf");
    drop(place.put_in());
    fs::write(place.root.join("etc/resolv.conf"), "mine\n").unwrap();
    drop(place.put_in());
    assert_eq!(place.resolv(), "mine\n");
    place.take_out_later();
    assert_eq!(place.resolv(), "mine\n");
}

#[test]
fn a_link_in_the_image_never_leads_to_the_containers_files() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("resolv.conf"), "the container's own\n").unwrap();
    let place = Place::new("true");
    symlink(outside.path(), place.root.join("etc")).unwrap();
    // Inside the root that path does not exist.
    let path = place.dir.path();
    let result = Inserted::put_in(
        &place.root,
        &path.join("agent"),
        &path.join("ca/certificate_authority.crt"),
        &path.join("resolv.conf"),
    );
    assert!(result.is_err());
    let names: Vec<_> = fs::read_dir(outside.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let untouched = fs::read_to_string(outside.path().join("resolv.conf")).unwrap();
    assert_eq!(untouched, "the container's own\n");
}

#[test]
fn an_etc_that_is_the_root_itself_stays_inside() {
    let place = Place::new("ln -s / etc; mkdir -p cray/ca tmp; echo own > resolv.conf");
    let containers = fs::read("/etc/resolv.conf").unwrap_or_default();
    let mut inserted = place.put_in();
    assert_eq!(place.resolv_at("resolv.conf"), "nameserver 10.0.0.1\n");
    inserted.take_out().unwrap();
    assert_eq!(place.resolv_at("resolv.conf"), "own\n");
    assert_eq!(fs::read("/etc/resolv.conf").unwrap_or_default(), containers);
}

impl Place {
    fn resolv_at(&self, name: &str) -> String {
        fs::read_to_string(self.root.join(name)).unwrap()
    }
}

#[test]
fn certificates_are_copied_as_files_and_keys_are_not() {
    let place = Place::new("mkdir -p etc/cray/ca; ln -s /etc/passwd etc/cray/ca/other.crt");
    sh(
        "cd ca; mkdir ..2026 sub; mv certificate_authority.crt ..2026; ln -s ..2026 ..data
         ln -s ..data/certificate_authority.crt certificate_authority.crt; echo other > other.crt
         printf -- '-----BEGIN RSA PRIVATE KEY-----\\n' > key.pem; truncate -s 2M large",
        place.dir.path(),
    );
    place.put_in().take_out().unwrap();
    let ca = place.root.join("etc/cray/ca");
    let mut names: Vec<_> =
        fs::read_dir(&ca).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["certificate_authority.crt", "other.crt"]);
    for name in names {
        let metadata = ca.join(name).symlink_metadata().unwrap();
        assert!(metadata.is_file());
        assert_eq!(metadata.mode() & 0o7777, 0o644);
    }
}

#[test]
fn signal_files_go_and_the_time_of_tmp_comes_back() {
    let place = Place::new(&format!("{CERTIFIED} chmod 1777 tmp; echo x > tmp/kept"));
    let before = Listing::of(&place.root);
    let mut inserted = place.put_in();
    sh("touch tmp/.ansible; rm tmp/.ansible; touch tmp/complete; ln -s x tmp/failed", &place.root);
    inserted.take_out().unwrap();
    before.assert_same(&Listing::of(&place.root));
}

#[test]
fn a_change_in_tmp_keeps_the_time_it_left() {
    let place = Place::new(CERTIFIED);
    let mut inserted = place.put_in();
    sh("echo x > tmp/new; touch tmp/complete; touch -d @1600000000 tmp", &place.root);
    inserted.take_out().unwrap();
    assert!(place.root.join("tmp/new").exists());
    assert!(!place.root.join("tmp/complete").exists());
    assert_eq!(place.root.join("tmp").metadata().unwrap().mtime(), 1_600_000_000);
}

#[test]
fn a_missing_tmp_is_made_for_the_session_and_goes_if_it_is_empty() {
    for (use_it, stays) in
        [("true", false), ("touch tmp/complete", false), ("echo x > tmp/x", true)]
    {
        let place = Place::new(&format!("{CERTIFIED} rmdir tmp"));
        let before = Listing::of(&place.root);
        let mut inserted = place.put_in();
        assert_eq!(place.root.join("tmp").metadata().unwrap().mode() & 0o7777, 0o1777);
        sh(use_it, &place.root);
        inserted.take_out().unwrap();
        assert_eq!(place.root.join("tmp").exists(), stays, "{use_it}");
        if !stays {
            before.assert_same(&Listing::of(&place.root));
        }
    }
}

#[test]
fn stale_signals_are_removed_and_directories_of_that_name_are_not() {
    let place = Place::new("mkdir tmp; touch tmp/complete; mkdir tmp/failed");
    sh("touch failed build_failed; mkdir complete", place.dir.path());
    let time = || place.root.join("tmp").metadata().unwrap().mtime();
    let before = time();
    remove_stale_signals(place.dir.path(), &place.root).unwrap();
    for (path, there) in [
        ("failed", false),
        ("build_failed", false),
        ("complete", true),
        ("root/tmp/complete", false),
        ("root/tmp/failed", true),
    ] {
        assert_eq!(place.dir.path().join(path).exists(), there, "{path}");
    }
    assert_eq!(time(), before);
    remove_stale_signals(Path::new("/nowhere"), &place.dir.path().join("agent")).unwrap();
}
