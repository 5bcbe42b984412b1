//! The object store's client against a real store: a Ceph RADOS gateway (`scripts/lab/ceph`), or any
//! other S3 endpoint that the three variables below name.

#![allow(clippy::disallowed_methods, reason = "variables say where the lab is")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::time::Duration;

use ims_job_agent::telemetry::progress::Meter;
use net::Trust;
use s3_client::{Config, Object, Store, Uploaded, get, put};
use tokio_util::sync::CancellationToken;

const BUCKET: &str = "boot-images";
const MIB: usize = 1 << 20;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: run scripts/lab/ceph start DIR, then `set -a; . DIR/env` and the \
             tests again"
        )
    })
}

fn store() -> Store {
    Store::new(Config {
        endpoint: variable("IMS_LAB_S3_ENDPOINT").parse().unwrap(),
        access_key: variable("IMS_LAB_S3_ACCESS_KEY"),
        secret_key: variable("IMS_LAB_S3_SECRET_KEY").into(),
        trust: Trust::System,
        timeout: Duration::from_secs(60),
    })
    .unwrap()
}

fn never() -> CancellationToken {
    CancellationToken::new()
}

/// Keys of one test, deleted at its end.
struct Keys {
    store: Store,
    prefix: String,
}

impl Keys {
    async fn new() -> Self {
        let store = store();
        store.create_bucket(BUCKET, &never()).await.unwrap();
        Self { store, prefix: format!("{}/", uuid::Uuid::new_v4()) }
    }

    fn object(&self, name: &str) -> Object {
        Object::new(BUCKET, format!("{}{name}", self.prefix))
    }

    async fn put(&self, name: &str, bytes: &[u8], options: &put::Options) -> Uploaded {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let object = self.object(name);
        self.store.put_file(&object, file, options, &(), &never()).await.unwrap()
    }

    /// Deletes what is left; gives the number.
    async fn delete(self) -> usize {
        let deleted = self.store.delete_prefix(BUCKET, &self.prefix, &never()).await.unwrap();
        assert!(self.store.list(BUCKET, &self.prefix, &never()).await.unwrap().is_empty());
        deleted
    }
}

/// Bytes that compress badly and repeat nowhere.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

#[tokio::test]
async fn a_small_object_goes_up_in_one_put_with_its_metadata() {
    let keys = Keys::new().await;
    let metadata = BTreeMap::from([
        ("x-shasta-ims-image-name".to_owned(), "a name (with spaces)".to_owned()),
        ("x-shasta-ims-image-id".to_owned(), "1234".to_owned()),
    ]);
    let options = put::Options { metadata: metadata.clone(), ..put::Options::default() };
    let uploaded = keys.put("kernel", b"kernel", &options).await;
    assert_eq!(uploaded.md5, "50484c19f1afdaf3841a0d821ed393d2");
    assert_eq!(uploaded.etag, uploaded.md5);
    let head = keys.store.head(&keys.object("kernel"), &never()).await.unwrap();
    assert_eq!(head.size, 6);
    assert_eq!(head.metadata["md5sum"], uploaded.md5);
    for (name, value) in metadata {
        assert_eq!(head.metadata[&name], value);
    }
    let bytes = keys.store.get_bytes(&keys.object("kernel"), 6, &never()).await.unwrap();
    assert_eq!(bytes, b"kernel");
    assert!(keys.store.get_bytes(&keys.object("kernel"), 5, &never()).await.is_err());
    assert_eq!(keys.delete().await, 1);
}

#[tokio::test]
async fn what_the_store_has_is_copied_there_and_the_etag_is_foretold() {
    let keys = Keys::new().await;
    let mut bytes = noise(100 * MIB);
    let base = keys.put("base", &bytes, &put::Options::default()).await;
    // A new head, a new tail, and all between them moved by 1000 bytes.
    bytes.splice(..2000, noise(1000));
    bytes.truncate(98 * MIB);
    bytes.extend(noise(3 * MIB));
    let shared = put::Shared { at: 1000, from: 2000, length: 98 * MIB as u64 - 1000 };
    let reuse = put::Reuse { object: keys.object("base"), etag: base.etag, ranges: vec![shared] };
    let options = put::Options { reuse: Some(reuse), ..put::Options::default() };
    // The etag is compared with the store's in there.
    let uploaded = keys.put("rootfs", &bytes, &options).await;
    assert!(uploaded.copied > 90 * MIB as u64, "{uploaded:?}");
    let held = keys.store.get_bytes(&keys.object("rootfs"), bytes.len(), &never()).await.unwrap();
    assert!(held == bytes, "the object has other bytes");
    keys.delete().await;
}

#[tokio::test]
async fn an_empty_object_goes_up_and_comes_down() {
    let keys = Keys::new().await;
    let uploaded = keys.put("empty", b"", &put::Options::default()).await;
    assert_eq!(uploaded.etag, "d41d8cd98f00b204e9800998ecf8427e");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty");
    let options = get::Options { md5: Some(uploaded.md5), ..get::Options::default() };
    download(&keys, "empty", &path, &options).await.unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"");
    keys.delete().await;
}

async fn download(
    keys: &Keys,
    name: &str,
    path: &std::path::Path,
    options: &get::Options,
) -> Result<get::Downloaded, get::Error> {
    let source = keys.store.source(keys.object(name));
    get::to_file(keys.store.http(), source, path, options, &(), &never()).await
}

#[tokio::test]
async fn a_large_object_goes_up_in_parts_and_comes_down_in_ranges() {
    let keys = Keys::new().await;
    let bytes = noise(21 * MIB + 17);
    let options = put::Options { part_size: 5 * MIB as u64, ..put::Options::default() };
    let uploaded = keys.put("rootfs", &bytes, &options).await;
    assert!(uploaded.etag.ends_with("-5"), "{uploaded:?}");
    let head = keys.store.head(&keys.object("rootfs"), &never()).await.unwrap();
    assert_eq!((head.etag.as_str(), head.size), (uploaded.etag.as_str(), uploaded.size));
    assert_eq!(head.metadata["md5sum"], uploaded.md5);

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rootfs");
    let options = get::Options {
        part_size: 3 * MIB as u64,
        md5: Some(uploaded.md5.to_uppercase()),
        size: Some(uploaded.size),
        etag: Some(uploaded.etag.clone()),
        ..get::Options::default()
    };
    let downloaded = download(&keys, "rootfs", &path, &options).await.unwrap();
    assert_eq!(downloaded.etag, Some(uploaded.etag));
    assert!(std::fs::read(&path).unwrap() == bytes, "another content");

    let wrong = get::Options { md5: Some("0".repeat(32)), ..options };
    let error = download(&keys, "rootfs", &path, &wrong).await.unwrap_err();
    assert!(matches!(error, get::Error::Md5 { .. }), "{error}");
    assert!(!path.exists(), "the wrong file is left");
    keys.delete().await;
}

#[tokio::test]
async fn a_cancelled_upload_leaves_neither_object_nor_parts() {
    let keys = Keys::new().await;
    let path = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(path.path(), noise(40 * MIB)).unwrap();
    let cancel = CancellationToken::new();
    let meter = Meter::hidden();
    let options =
        put::Options { part_size: 5 * MIB as u64, concurrency: 1, ..put::Options::default() };
    let object = keys.object("rootfs");
    let file = File::open(path.path()).unwrap();
    let upload = keys.store.put_file(&object, file, &options, &meter, &cancel);
    let stop = async {
        while meter.done() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!unfinished(&keys).await.is_empty(), "nothing to abort: the test proves nothing");
        cancel.cancel();
    };
    let (uploaded, ()) = tokio::join!(upload, stop);
    assert!(uploaded.is_err());
    assert!(unfinished(&keys).await.is_empty());
    assert_eq!(keys.delete().await, 0);
}

async fn unfinished(keys: &Keys) -> Vec<(Object, String)> {
    keys.store.unfinished_uploads(BUCKET, &keys.prefix).await.unwrap()
}

#[tokio::test]
async fn a_presigned_url_needs_no_keys_and_a_forged_one_is_denied() {
    let keys = Keys::new().await;
    keys.put("initrd", b"initrd", &put::Options::default()).await;
    let url = keys.store.presign_get(&keys.object("initrd")).await.unwrap();
    let plain = reqwest::get(url.clone()).await.unwrap();
    assert_eq!(plain.bytes().await.unwrap().as_ref(), b"initrd");

    let forged = url.as_str().replace("X-Amz-Expires=3600", "X-Amz-Expires=3601");
    let source = std::sync::Arc::new(get::FixedUrl::new(forged.parse().unwrap()));
    let dir = tempfile::tempdir().unwrap();
    let error = get::to_file(
        keys.store.http(),
        source,
        &dir.path().join("initrd"),
        &get::Options::default(),
        &(),
        &never(),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, get::Error::Source(_)), "{error}");
    keys.delete().await;
}

#[tokio::test]
async fn wrong_keys_are_refused_at_once_and_not_told() {
    let keys = Keys::new().await;
    let stranger = Store::new(Config {
        endpoint: variable("IMS_LAB_S3_ENDPOINT").parse().unwrap(),
        access_key: variable("IMS_LAB_S3_ACCESS_KEY"),
        secret_key: "wrongsecret".to_owned().into(),
        trust: Trust::System,
        timeout: Duration::from_secs(60),
    })
    .unwrap();
    let error = stranger.list(BUCKET, &keys.prefix, &never()).await.unwrap_err();
    let text = ims_job_agent::telemetry::chain(&error);
    assert!(text.contains("403"), "{text}");
    assert!(!text.contains("wrongsecret") && !format!("{stranger:?}").contains("wrongsecret"));
}
