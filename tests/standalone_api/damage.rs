//! Files of standalone that are missing, cut off or damaged: a refusal, a way out, and nothing erased.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, MetadataDirective};
use ims_job_agent::standalone::{Server, rebuild_index};

use crate::sdk::client;
use crate::support::{Standalone, agent, config};

const MIB: usize = 1 << 20;

fn body(bytes: &[u8]) -> ByteStream {
    ByteStream::from(bytes.to_vec())
}

fn blobs(data: &Path) -> Vec<(PathBuf, u64)> {
    let entries = std::fs::read_dir(data.join("s3/blobs")).unwrap();
    let mut all: Vec<_> =
        entries.map(|it| it.unwrap()).map(|it| (it.path(), it.metadata().unwrap().len())).collect();
    all.sort();
    all
}

/// Objects of every kind. An upload goes on: its id and the etag of its part.
async fn fill(standalone: &Standalone) -> (String, String) {
    let s3 = client(standalone);
    let put = |key: &str, bytes: &[u8]| s3.put_object().bucket("ims").key(key).body(body(bytes));
    put("plain", b"plain").metadata("md5sum", "x").content_type("text/x").send().await.unwrap();
    put("empty", b"").send().await.unwrap();
    put("replaced", b"old").send().await.unwrap();
    put("replaced", b"new").send().await.unwrap();
    put("deleted", b"gone").send().await.unwrap();
    s3.delete_object().bucket("ims").key("deleted").send().await.unwrap();
    put("original", b"copied").metadata("a", "1").send().await.unwrap();
    let copy = |to: &str| s3.copy_object().bucket("ims").key(to).copy_source("ims/original");
    copy("copy").send().await.unwrap();
    copy("original")
        .metadata_directive(MetadataDirective::Replace)
        .metadata("b", "2")
        .send()
        .await
        .unwrap();
    copy("second").send().await.unwrap();
    s3.delete_object().bucket("ims").key("original").send().await.unwrap();
    s3.create_bucket().bucket("other").send().await.unwrap();
    s3.put_object().bucket("other").key("ü/ x").body(body(b"odd")).send().await.unwrap();

    let upload = |key: &str| s3.create_multipart_upload().bucket("boot-images").key(key);
    let id = upload("large").metadata("md5sum", "y").send().await.unwrap().upload_id.unwrap();
    let mut parts = CompletedMultipartUpload::builder();
    for number in 1..=3 {
        let bytes = vec![number as u8; if number < 3 { 5 * MIB } else { 10 }];
        let part = s3.upload_part().bucket("boot-images").key("large").upload_id(&id);
        let part = part.part_number(number).body(body(&bytes)).send().await.unwrap();
        let done = CompletedPart::builder().part_number(number).set_e_tag(part.e_tag).build();
        parts = parts.parts(done);
    }
    let complete = s3.complete_multipart_upload().bucket("boot-images").key("large").upload_id(&id);
    complete.multipart_upload(parts.build()).send().await.unwrap();

    let id = upload("going on").send().await.unwrap().upload_id.unwrap();
    let part = s3.upload_part_copy().bucket("boot-images").key("going on").upload_id(&id);
    let part = part.part_number(1).copy_source("boot-images/large");
    let part = part.copy_source_range(format!("bytes=3-{}", 6 * MIB)).send().await.unwrap();
    (id, part.copy_part_result.unwrap().e_tag.unwrap())
}

async fn buckets(standalone: &Standalone) -> Vec<String> {
    let list = client(standalone).list_buckets().send().await.unwrap();
    list.buckets().iter().filter_map(|bucket| bucket.name.clone()).collect()
}

/// Everything a client sees of the objects.
async fn seen(standalone: &Standalone) -> BTreeMap<String, String> {
    let s3 = client(standalone);
    let mut all = BTreeMap::new();
    for bucket in buckets(standalone).await {
        for key in standalone.keys(&bucket).await {
            let object = s3.get_object().bucket(&bucket).key(&key).send().await.unwrap();
            let head = (object.e_tag.clone(), object.content_type.clone(), object.metadata.clone());
            let bytes = object.body.collect().await.unwrap().to_vec();
            all.insert(
                format!("{bucket}/{key}"),
                format!("{head:?} {}", hex::encode(&bytes[..bytes.len().min(9)])),
            );
        }
    }
    all
}

type Damage = fn(&Path);

/// Every way to lose a database.
fn damages() -> Vec<(&'static str, Damage)> {
    vec![
        ("missing", |path| std::fs::remove_file(path).unwrap()),
        ("empty", |path| std::fs::write(path, "").unwrap()),
        ("cut off", |path| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
        ("of zeros", |path| {
            let length = std::fs::metadata(path).unwrap().len();
            std::fs::write(path, vec![0; length as usize]).unwrap();
        }),
        ("with pages of zeros", |path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[4096..].fill(0);
            std::fs::write(path, bytes).unwrap();
        }),
        ("with turned bits", |path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[4096..].iter_mut().for_each(|byte| *byte ^= 0x10);
            std::fs::write(path, bytes).unwrap();
        }),
        ("of something else", |path| std::fs::write(path, "# a text\n".repeat(1000)).unwrap()),
    ]
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Why standalone does not start, by its program: nothing on stderr but that.
fn refused(data: &Path, home: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ims-job-agent"))
        .arg("standalone")
        .arg("--data")
        .arg(data)
        .args(["--ims-listen", "127.0.0.1:0", "--s3-listen", "127.0.0.1:0"])
        .env("HOME", home)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_index_is_refused_and_rebuilt_whole() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let standalone = Standalone::start(&data).await;
    let (upload, etag) = fill(&standalone).await;
    let before = seen(&standalone).await;
    assert_eq!(before.len(), 7, "{before:?}");
    standalone.stop().await;
    for (what, damage) in damages() {
        let copied = dir.path().join(what);
        copy(&data, &copied);
        damage(&copied.join("s3/index.redb"));
        let text = refused(&copied, dir.path());
        assert!(text.contains("s3/index.redb"), "{what}: {text}");
        assert!(text.contains("--rebuild-index"), "{what}: {text}");
        if ["missing", "empty"].contains(&what) {
            let (all, bytes) =
                (blobs(&copied).len(), blobs(&copied).iter().map(|it| it.1).sum::<u64>());
            assert!(text.contains(&format!("{all} blobs ({bytes} bytes)")), "{what}: {text}");
        }
        let all = |data: &Path| blobs(data).iter().map(|it| it.1).collect::<Vec<_>>();
        assert_eq!(all(&copied), all(&data), "{what}");

        let report = rebuild_index(&copied).await.unwrap();
        assert_eq!((report.objects, report.parts, report.lost), (7, 1, 0), "{what}: {report:?}");
        assert!(report.broken.is_empty(), "{what}: {report:?}");
        let standalone = Standalone::start(&copied).await;
        assert_eq!(seen(&standalone).await, before, "{what}");
        let s3 = client(&standalone);
        let part = CompletedPart::builder().part_number(1).e_tag(&etag).build();
        let parts = CompletedMultipartUpload::builder().parts(part).build();
        let complete = s3.complete_multipart_upload().bucket("boot-images").key("going on");
        complete.upload_id(&upload).multipart_upload(parts).send().await.unwrap();
        for bucket in buckets(&standalone).await {
            for key in standalone.keys(&bucket).await {
                s3.delete_object().bucket(&bucket).key(key).send().await.unwrap();
            }
        }
        assert!(blobs(&copied).is_empty(), "{what}: every use is counted");
        standalone.stop().await;
        assert!(!copied.join("s3/lost+found").exists(), "{what}");
    }
    let error = rebuild_index(&data).await.unwrap_err().to_string();
    assert!(error.contains("is readable"), "{error}");
}

/// What a blob of an older version is: one without a note, if it has bytes at all.
fn make_old(blob: &Path) {
    let bytes = std::fs::read(blob).unwrap();
    let footer = &bytes[bytes.len() - 28..];
    assert!(footer.ends_with(b"ims-note"));
    let length = u32::from_le_bytes(footer[..4].try_into().unwrap()) as usize;
    match bytes.len() - 28 - length {
        0 => std::fs::remove_file(blob).unwrap(),
        rest => std::fs::write(blob, &bytes[..rest]).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_an_older_version_are_known_by_the_records_or_kept_without_a_name() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let standalone = Standalone::start(&data).await;
    let image = standalone.image().await;
    standalone.put("ims", "unknown", b"what nobody knows").await;
    let linked = seen(&standalone).await;
    standalone.stop().await;
    blobs(&data).iter().for_each(|(blob, _)| make_old(blob));
    std::fs::remove_file(data.join("s3/index.redb")).unwrap();
    let text = refused(&data, dir.path());
    assert!(text.contains("is missing, but ") && text.contains("contains 4 blobs"), "{text}");
    let report = rebuild_index(&data).await.unwrap();
    assert_eq!((report.objects, report.matched, report.lost), (0, 3, 1), "{report:?}");
    let standalone = Standalone::start(&data).await;
    let now = seen(&standalone).await;
    for name in ["rootfs", "kernel", "manifest.json"] {
        let name = format!("boot-images/{image}/{name}");
        let etag =
            |all: &BTreeMap<String, String>| all[&name].split(')').next().unwrap().to_owned();
        assert_eq!(etag(&now), etag(&linked));
    }
    let lost = now.keys().find(|key| key.starts_with("boot-images/lost+found/")).unwrap();
    let key = lost.strip_prefix("boot-images/").unwrap();
    assert_eq!(standalone.read("boot-images", key).await, b"what nobody knows");
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_an_older_version_say_what_they_are_after_one_start() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let standalone = Standalone::start(&data).await;
    for n in 0..3 {
        standalone.put("ims", &format!("k{n}"), format!("bytes {n}").as_bytes()).await;
    }
    let before = seen(&standalone).await;
    standalone.stop().await;
    blobs(&data).iter().for_each(|(blob, _)| make_old(blob));
    let index = redb::Database::open(data.join("s3/index.redb")).unwrap();
    let txn = index.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    txn.open_table(meta).unwrap().remove("noted").unwrap();
    txn.commit().unwrap();
    drop(index);
    Standalone::start(&data).await.stop().await;
    std::fs::remove_file(data.join("s3/index.redb")).unwrap();
    let report = rebuild_index(&data).await.unwrap();
    assert_eq!((report.objects, report.lost), (3, 0), "{report:?}");
    let standalone = Standalone::start(&data).await;
    assert_eq!(seen(&standalone).await, before);
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_that_no_object_uses_are_put_aside_and_an_index_of_another_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (data, old) = (dir.path().join("data"), dir.path().join("index.redb"));
    let standalone = Standalone::start(&data).await;
    standalone.put("ims", "first", b"first").await;
    standalone.stop().await;
    let index = data.join("s3/index.redb");
    std::fs::copy(&index, &old).unwrap();
    let standalone = Standalone::start(&data).await;
    standalone.put("ims", "second", b"second").await;
    standalone.stop().await;
    // A backup, older than the blobs.
    std::fs::copy(&old, &index).unwrap();
    let standalone = Standalone::start(&data).await;
    assert_eq!(standalone.keys("ims").await, ["first"]);
    let lost = data.join("s3/lost+found");
    assert_eq!(std::fs::read_dir(&lost).unwrap().count(), 1);
    for n in 0..20 {
        standalone.put("ims", &format!("more {n}"), b"more").await;
    }
    standalone.stop().await;
    let other = dir.path().join("other");
    Standalone::start(&other).await.stop().await;
    std::fs::copy(other.join("s3/index.redb"), &index).unwrap();
    let text = refused(&data, dir.path());
    assert!(
        text.contains("lists none of these objects") && text.contains("contains 21 blobs"),
        "{text}"
    );
    assert_eq!(blobs(&data).len(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_are_named_with_the_way_out_and_nothing_is_erased() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let standalone = Standalone::start(&data).await;
    standalone.image().await;
    standalone.stop().await;
    for (what, damage) in damages().into_iter().filter(|(what, _)| *what != "missing") {
        let copied = dir.path().join(what);
        copy(&data, &copied);
        let records = copied.join("records.redb");
        damage(&records);
        let found = std::fs::metadata(&records).unwrap().len();
        let text = refused(&copied, dir.path());
        assert!(text.contains("records.redb is damaged"), "{what}: {text}");
        assert!(text.contains("Restore a backup"), "{what}: {text}");
        assert_eq!(std::fs::metadata(&records).unwrap().len(), found, "{what}");
        assert_eq!(blobs(&copied).len(), 3, "{what}");
        // The other way out.
        std::fs::rename(&records, copied.join("aside")).unwrap();
        let standalone = Standalone::start(&copied).await;
        assert_eq!(standalone.keys("boot-images").await.len(), 3, "{what}");
        standalone.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_standalone_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(dir.path()).await;
    let error = Server::start(config(dir.path(), &agent(dir.path(), ""))).await.err().unwrap();
    let text = ims_job_agent::telemetry::chain(&error);
    assert!(text.contains("another process uses") && text.contains("records.redb"), "{text}");
    standalone.stop().await;
}
