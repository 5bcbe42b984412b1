//! The S3 endpoint by requests: what the job, and Ceph's users, rely on.

use std::path::Path;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, MetadataDirective};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use tokio::io::AsyncWriteExt;

use crate::sdk::{client, status};
use crate::support::{Standalone, until};

const MIB: usize = 1024 * 1024;

fn hex_md5(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

fn base64_md5(bytes: &[u8]) -> String {
    STANDARD.encode(Md5::digest(bytes))
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

fn body(bytes: &[u8]) -> ByteStream {
    ByteStream::from(bytes.to_vec())
}

async fn get(s3: &Client, bucket: &str, key: &str) -> Vec<u8> {
    let answer = s3.get_object().bucket(bucket).key(key).send().await.unwrap();
    answer.body.collect().await.unwrap().to_vec()
}

fn blobs(data: &Path) -> usize {
    std::fs::read_dir(data.join("s3/blobs")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_is_taken_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(dir.path()).await;
    let s3 = client(&standalone);
    let put = |bytes: &[u8]| s3.put_object().bucket("ims").key("a").body(body(bytes));
    let first = put(b"first").metadata("md5sum", "x").content_type("text/x").send().await;
    assert_eq!(first.unwrap().e_tag.unwrap(), quoted(&hex_md5(b"first")));

    let wrong = put(b"second").content_md5(base64_md5(b"other")).send().await;
    assert_eq!(status(wrong), 400);
    let found = s3.get_object().bucket("ims").key("a").send().await.unwrap();
    assert_eq!(found.metadata.unwrap()["md5sum"], "x");
    assert_eq!(found.content_type.unwrap(), "text/x");
    assert_eq!(found.body.collect().await.unwrap().to_vec(), b"first");
    assert_eq!(status(put(b"x").if_none_match("*").send().await), 412);
    put(b"third").content_md5(base64_md5(b"third")).send().await.unwrap();
    assert_eq!(get(&s3, "ims", "a").await, b"third");
    assert_eq!(status(s3.put_object().bucket("none").key("a").send().await), 404);

    // A key and keys below it live side by side; odd ones are only names.
    let odd = ["a/b", "a/b/c", "..x/.y", "ä b+c%20", "dir/"];
    for key in odd {
        s3.put_object().bucket("ims").key(key).body(body(key.as_bytes())).send().await.unwrap();
    }
    for key in odd {
        assert_eq!(get(&s3, "ims", key).await, key.as_bytes());
    }
    s3.put_object().bucket("ims").key("empty").send().await.unwrap();
    assert_eq!(get(&s3, "ims", "empty").await, b"");
    assert_eq!(blobs(dir.path()), 2 + odd.len(), "none of what was refused or replaced");
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_and_conditions() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(dir.path()).await;
    let s3 = client(&standalone);
    s3.put_object().bucket("ims").key("k").body(body(b"0123456789")).send().await.unwrap();
    let get = || s3.get_object().bucket("ims").key("k");
    for (range, expected) in [
        ("bytes=2-4", "234"),
        ("bytes=7-", "789"),
        ("bytes=-2", "89"),
        ("bytes=0-99", "0123456789"),
    ] {
        let answer = get().range(range).send().await.unwrap();
        assert!(answer.content_range.unwrap().ends_with("/10"), "{range}");
        assert_eq!(answer.body.collect().await.unwrap().to_vec(), expected.as_bytes());
    }
    assert_eq!(status(get().range("bytes=10-").send().await), 416);
    let tag = quoted(&hex_md5(b"0123456789"));
    get().if_match(&tag).send().await.unwrap();
    assert_eq!(status(get().if_match("\"x\"").send().await), 412);
    assert_eq!(status(get().if_none_match(&tag).send().await), 304);
    let head = || s3.head_object().bucket("ims");
    assert_eq!(status(head().key("k").if_match("\"x\"").send().await), 412);
    assert_eq!(status(head().key("none").send().await), 404);
    assert_eq!(status(s3.get_object().bucket("ims").key("none").send().await), 404);
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn presigned_urls_open_one_object_for_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(dir.path()).await;
    let s3 = client(&standalone);
    s3.put_object().bucket("ims").key("k").body(body(b"0123456789")).send().await.unwrap();
    let presigned = async |began: SystemTime| {
        let expiry = PresigningConfig::builder()
            .start_time(began)
            .expires_in(Duration::from_secs(50))
            .build()
            .unwrap();
        let request = s3.get_object().bucket("ims").key("k").presigned(expiry).await.unwrap();
        request.uri().to_owned()
    };
    let ask = async |url: String| {
        let request = reqwest::Client::new().get(url).header("range", "bytes=0-1");
        request.send().await.unwrap().status().as_u16()
    };
    let url = presigned(SystemTime::now()).await;
    assert_eq!(ask(url.clone()).await, 206);
    assert_eq!(ask(url.replace("/k?", "/other?")).await, 403);
    assert_eq!(ask(presigned(SystemTime::now() - Duration::from_secs(100)).await).await, 403);
    assert_eq!(ask(format!("{}ims/k", standalone.s3)).await, 403);
    standalone.stop().await;
}

/// Puts parts together; their etags are the md5s of their bytes.
fn list(etags: impl IntoIterator<Item = String>) -> CompletedMultipartUpload {
    let parts = (1..)
        .zip(etags)
        .map(|(number, etag)| CompletedPart::builder().part_number(number).e_tag(etag).build());
    CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build()
}

#[tokio::test(flavor = "multi_thread")]
async fn multipart_uploads_and_copies() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(dir.path()).await;
    let s3 = client(&standalone);
    let parts: Vec<Vec<u8>> = vec![vec![1; 5 * MIB], vec![2; 5 * MIB], vec![3; 10]];
    let (bucket, key) = ("boot-images", "id/rootfs");
    let created = s3.create_multipart_upload().bucket(bucket).key(key).metadata("md5sum", "whole");
    let id = created.send().await.unwrap().upload_id.unwrap();
    let part = |number: usize, bytes: &[u8]| {
        let part = s3.upload_part().bucket(bucket).key(key).upload_id(&id);
        part.part_number(number as i32 + 1).body(body(bytes))
    };
    let wrong = part(0, &parts[0]).content_md5(base64_md5(b"other")).send().await;
    assert_eq!(status(wrong), 400);
    // Parts at once, in any order.
    futures::future::join_all(parts.iter().enumerate().rev().map(async |(n, bytes)| {
        let answer = part(n, bytes).content_md5(base64_md5(bytes)).send().await.unwrap();
        assert_eq!(answer.e_tag.unwrap(), quoted(&hex_md5(bytes)));
    }))
    .await;
    let complete = s3.complete_multipart_upload().bucket(bucket).key(key).upload_id(&id);
    let complete = complete.multipart_upload(list(parts.iter().map(|part| hex_md5(part))));
    complete.send().await.unwrap();
    let digests: Vec<u8> = parts.iter().flat_map(|part| Md5::digest(part).to_vec()).collect();
    let etag = quoted(&format!("{}-3", hex_md5(&digests)));
    let head = async |key: &str| {
        let head = s3.head_object().bucket(bucket).key(key).send().await.unwrap();
        (head.e_tag.unwrap(), head.metadata.unwrap()["md5sum"].clone())
    };
    assert_eq!(head(key).await, (etag.clone(), "whole".into()));
    let range = format!("bytes={}-{}", 5 * MIB - 2, 5 * MIB + 1);
    let across = s3.get_object().bucket(bucket).key(key).range(range).send().await.unwrap();
    assert_eq!(across.body.collect().await.unwrap().to_vec(), [1, 1, 2, 2]);

    // A copy onto itself changes metadata and nothing else.
    let copy =
        |to: &str| s3.copy_object().copy_source(format!("{bucket}/{key}")).bucket(bucket).key(to);
    let onto = copy(key).metadata_directive(MetadataDirective::Replace).metadata("md5sum", "new");
    onto.send().await.unwrap();
    assert_eq!(head(key).await, (etag.clone(), "new".into()));
    assert_eq!(status(copy(key).send().await), 400);

    // Copies live on without their source.
    copy("deleted/id/rootfs").send().await.unwrap();
    s3.delete_object().bucket(bucket).key(key).send().await.unwrap();
    assert_eq!(head("deleted/id/rootfs").await, (etag, "new".into()));
    assert!(get(&s3, bucket, "deleted/id/rootfs").await == parts.concat());
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn part_copies_and_aborts_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(dir.path()).await;
    let s3 = client(&standalone);
    let source: Vec<u8> = (0..12 * MIB).map(|n| (n / 7) as u8).collect();
    s3.put_object().bucket("ims").key("source").body(body(&source)).send().await.unwrap();
    let create = async |key: &str| {
        let created = s3.create_multipart_upload().bucket("ims").key(key).send().await;
        created.unwrap().upload_id.unwrap()
    };
    let id = create("target").await;
    let part = |number: i32, range: String| {
        let part = s3.upload_part_copy().bucket("ims").key("target").upload_id(&id);
        part.part_number(number).copy_source("ims/source").copy_source_range(range)
    };
    let mut etags = Vec::new();
    for (number, (start, end)) in (1..).zip([(6 * MIB, 12 * MIB), (0, 6 * MIB)]) {
        let copied = part(number, format!("bytes={start}-{}", end - 1)).send().await.unwrap();
        let etag = copied.copy_part_result.unwrap().e_tag.unwrap();
        assert_eq!(etag, quoted(&hex_md5(&source[start..end])));
        etags.push(etag);
    }
    assert_eq!(status(part(3, "bytes=0-99999999".into()).send().await), 416);
    let complete = s3.complete_multipart_upload().bucket("ims").key("target").upload_id(&id);
    complete.multipart_upload(list(etags)).send().await.unwrap();
    s3.delete_object().bucket("ims").key("source").send().await.unwrap();
    let expected = [&source[6 * MIB..], &source[..6 * MIB]].concat();
    assert!(get(&s3, "ims", "target").await == expected);

    let aborted = create("aborted").await;
    let part = s3.upload_part().bucket("ims").key("aborted").upload_id(&aborted);
    part.part_number(1).body(body(b"bytes")).send().await.unwrap();
    let abort = || s3.abort_multipart_upload().bucket("ims").key("aborted").upload_id(&aborted);
    abort().send().await.unwrap();
    assert_eq!(status(abort().send().await), 404);
    s3.delete_object().bucket("ims").key("target").send().await.unwrap();
    assert_eq!(blobs(dir.path()), 0);
    standalone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upload_leaves_the_old_object_and_no_litter() {
    let dir = tempfile::tempdir().unwrap();
    let standalone = Standalone::start(dir.path()).await;
    standalone.put("ims", "k", b"old").await;
    // An upload that stops half way: what it wrote is not the object, and goes away.
    let expiry = PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
    let put = client(&standalone).put_object().bucket("ims").key("k").presigned(expiry).await;
    let uri: url::Url = put.unwrap().uri().parse().unwrap();
    let host = format!("{}:{}", uri.host_str().unwrap(), uri.port().unwrap());
    let mut stream = tokio::net::TcpStream::connect(&host).await.unwrap();
    let target = format!("{}?{}", uri.path(), uri.query().unwrap());
    let head = format!("PUT {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&[7; 100_000]).await.unwrap();
    until(async || blobs(dir.path()) == 2).await;
    drop(stream);
    until(async || blobs(dir.path()) == 1).await;
    assert_eq!(standalone.read("ims", "k").await, b"old");
    standalone.stop().await;

    // What a power cut leaves: a blob that no object knows.
    let litter = dir.path().join("s3/blobs/00000000000040008000000000000000");
    std::fs::write(&litter, "litter").unwrap();
    let standalone = Standalone::start(dir.path()).await;
    assert!(!litter.exists());
    assert_eq!(standalone.read("ims", "k").await, b"old");
    standalone.stop().await;
}
