//! Good and malicious archives.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use tar::{Builder, EntryType, Header};

use super::*;

/// Creates archives; names and targets go in as they are.
struct Maker(Builder<Vec<u8>>);

impl Maker {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn entry(mut self, name: &str, kind: EntryType, target: &str, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o640);
        header.set_mtime(1_600_000_000);
        header.set_uid(7);
        header.set_gid(8);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(name, EntryType::Regular, "", content.as_bytes())
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Symlink, target, b"")
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A place to unpack into, with a victim beside it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("recipe")).unwrap();
        fs::write(dir.path().join("victim"), "untouched").unwrap();
        Self { dir }
    }

    fn recipe(&self) -> PathBuf {
        self.dir.path().join("recipe")
    }

    fn unpack(&self, archive: &[u8], limits: &Limits) -> Result<Unpacked, Error> {
        let path = self.dir.path().join("archive");
        fs::write(&path, archive).unwrap();
        unpack(&path, &self.recipe(), limits, &CancellationToken::new())
    }

    /// The archive is refused, with these words, and nothing but the directory was touched.
    #[track_caller]
    fn refuses(&self, maker: Maker, words: &[&str]) {
        let error = self.unpack(&maker.bytes(), &Limits::default()).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
        assert_eq!(fs::read(self.dir.path().join("victim")).unwrap(), b"untouched");
        let mut names: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["archive", "recipe", "victim"]);
    }
}

fn good() -> Vec<u8> {
    Maker::new()
        .entry("./", EntryType::Directory, "", b"")
        .file("./config.xml", "<image/>")
        .entry("root/etc/", EntryType::Directory, "", b"")
        .file("root/etc/motd", "hello")
        .link("root/etc/localtime", "/usr/share/zoneinfo/UTC")
        .link("root/etc/up", "../../../usr")
        .link("config.sh", "scripts/config.sh")
        .file("scripts/config.sh", "#!/bin/sh\n")
        .entry("again.sh", EntryType::Link, "./scripts/config.sh", b"")
        .bytes()
}

#[test]
fn every_compression_is_told_by_content() {
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&good()).unwrap();
        encoder.finish().unwrap()
    };
    let xz = {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
        encoder.write_all(&good()).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::encode_all(&good()[..], 1).unwrap();
    for archive in [good(), gzip, xz, zstd] {
        let place = Place::new();
        let unpacked = place.unpack(&archive, &Limits::default()).unwrap();
        assert_eq!(unpacked, Unpacked { entries: 8, size: 23 });
        assert_eq!(fs::read(place.recipe().join("config.sh")).unwrap(), b"#!/bin/sh\n");
    }
}

#[test]
fn owners_modes_times_and_links_are_kept() {
    let place = Place::new();
    place.unpack(&good(), &Limits::default()).unwrap();
    let meta = |name: &str| place.recipe().join(name).symlink_metadata().unwrap();
    let motd = meta("root/etc/motd");
    assert_eq!((motd.mode() & 0o7777, motd.uid(), motd.gid()), (0o640, 7, 8));
    assert_eq!((motd.mtime(), meta("root/etc").mtime()), (1_600_000_000, 1_600_000_000));
    assert_eq!(meta("again.sh").ino(), meta("scripts/config.sh").ino());
    let link = fs::read_link(place.recipe().join("root/etc/localtime")).unwrap();
    assert_eq!(link, PathBuf::from("/usr/share/zoneinfo/UTC"), "of the image, not of the recipe");
}

#[test]
fn names_that_lead_outside_are_refused() {
    let place = Place::new();
    for name in ["/victim", "../victim", "a/../../victim", "a/../b", "./../victim"] {
        place.refuses(Maker::new().file(name, "evil"), &[name]);
        place.refuses(Maker::new().entry(name, EntryType::Directory, "", b""), &[name]);
        place.refuses(Maker::new().link(name, "x"), &[name]);
    }
}

#[test]
fn links_that_lead_outside_are_refused() {
    let place = Place::new();
    for target in ["/etc/passwd", "..", "../victim", "a/../../victim", "/"] {
        place.refuses(Maker::new().link("evil", target), &["evil", "outside the recipe"]);
    }
    place.refuses(Maker::new().link("a/evil", "../../victim"), &["a/evil"]);
    // `root` itself is part of the recipe, only what is in it is the image's.
    place.refuses(Maker::new().link("root", "/etc"), &["root"]);
    for target in ["../victim", "/etc/passwd", "../../victim", "nowhere"] {
        let maker = Maker::new().entry("evil", EntryType::Link, target, b"");
        place.refuses(maker, &["evil", target]);
    }
}

#[test]
fn a_chain_of_harmless_links_does_not_lead_outside() {
    let place = Place::new();
    let chain =
        Maker::new().file("a/b/file", "").link("a/top", "..").link("evil", "a/top/../victim");
    place.refuses(chain, &["evil", "outside the recipe"]);
    let place = Place::new();
    let through_image =
        Maker::new().link("root/etc/evil", "/etc/shadow").link("x", "root/etc/evil");
    place.refuses(through_image, &["x", "outside the recipe"]);
}

#[test]
fn nothing_is_written_through_a_link() {
    for target in ["/", "root", "sub"] {
        let place = Place::new();
        let maker = Maker::new()
            .entry("sub/", EntryType::Directory, "", b"")
            .link("root/way", target)
            .file("root/way/victim", "evil");
        place.refuses(maker, &["root/way/victim", "through the link way"]);
    }
    let place = Place::new();
    place
        .unpack(
            &Maker::new().link("root/f", "/etc/x").file("root/f", "new").bytes(),
            &Limits::default(),
        )
        .unwrap();
    assert_eq!(fs::read(place.recipe().join("root/f")).unwrap(), b"new", "the link was replaced");
}

#[test]
fn links_that_were_there_before_are_not_followed_either() {
    let place = Place::new();
    symlink("../", place.recipe().join("way")).unwrap();
    place.refuses(Maker::new().file("way/victim", "evil"), &["way/victim", "through the link"]);
}

#[test]
fn devices_and_fifos_are_refused() {
    for (kind, word) in [
        (EntryType::Char, "device"),
        (EntryType::Block, "device"),
        (EntryType::Fifo, "fifo"),
        (EntryType::new(b'V'), "not a file"),
    ] {
        Place::new()
            .refuses(Maker::new().entry("root/dev/x", kind, "", b""), &["root/dev/x", word]);
    }
}

#[test]
fn bombs_are_refused_before_anything_is_written() {
    let place = Place::new();
    let limits = Limits { size: 10_000, entries: 3 };
    let large = Maker::new().file("a", &"x".repeat(6000)).file("b", &"x".repeat(6000));
    let many = (0..4).fold(Maker::new(), |maker, number| maker.file(&format!("f{number}"), ""));
    let long_name = Maker::new().entry("x", EntryType::GNULongName, "", &[b'n'; 2 << 20]);
    for (maker, words) in [(large, ["b: ", "larger"]), (many, ["f3", "3 entries"])] {
        let error = place.unpack(&maker.bytes(), &limits).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    assert!(place.unpack(&long_name.bytes(), &Limits::default()).is_err());
    assert_eq!(fs::read_dir(place.recipe()).unwrap().count(), 0);
}

#[test]
fn a_sparse_file_counts_with_its_whole_size() {
    let place = Place::new();
    let dir = place.dir.path();
    fs::File::create(dir.join("hole")).unwrap().set_len(8 << 30).unwrap();
    let mut tar = std::process::Command::new("tar");
    tar.args(["-S", "--format=gnu", "-cf", "sparse.tar", "hole"]).current_dir(dir);
    assert!(tar.status().unwrap().success());
    let archive = fs::read(dir.join("sparse.tar")).unwrap();
    assert!(archive.len() < 1 << 20);
    let error = place.unpack(&archive, &Limits::default()).unwrap_err();
    assert!(error.to_string().contains("hole"), "{error}");
}

#[test]
fn what_is_no_archive_or_only_half_of_one_is_an_error() {
    let place = Place::new();
    let half = &good()[..2000];
    for (archive, word) in [
        (&b"<html>no such key</html>"[..], "not a recipe archive"),
        (b"", "not a recipe archive"),
        (&[0x1f, 0x8b, 8, 0, 0], "truncated"),
        (half, "truncated"),
        (&[0; 1024], "not a recipe archive"),
    ] {
        let error = place.unpack(archive, &Limits::default()).unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
}
