//! Uploads to stores that misbehave as real ones do.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use md5::{Digest, Md5};

use super::*;
use crate::testing::{BUCKET, Fault, Lab};
use net::testing::{QUICK, Seen, answer};

const MIB: usize = 1 << 20;

/// Three parts, the last one short.
fn bytes() -> Vec<u8> {
    (0..(11 * MIB + 5) as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

fn options() -> Options {
    Options { part_size: 5 * MIB as u64, ..Options::default() }
}

async fn upload(lab: &Lab, bytes: &[u8]) -> Result<Uploaded, Error> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    let object = Object::new(BUCKET, "1/rootfs");
    lab.store.put_file(&object, file, &options(), &(), &CancellationToken::new()).await
}

fn is_part(seen: &Seen) -> bool {
    seen.method == "PUT" && seen.query().contains("partNumber")
}

fn is_complete(seen: &Seen) -> bool {
    seen.method == "POST" && seen.query().contains("uploadId")
}

fn is_abort(seen: &Seen) -> bool {
    seen.method == "DELETE" && seen.query().contains("uploadId")
}

fn code(status: u16, code: &str) -> axum::response::Response {
    answer(status, format!("<Error><Code>{code}</Code><Message>no</Message></Error>"))
}

fn count(lab: &Lab, which: fn(&Seen) -> bool) -> usize {
    lab.server.seen().iter().filter(|seen| which(seen)).count()
}

#[tokio::test]
async fn parts_carry_their_md5_and_the_upload_the_md5_of_all() {
    let lab = Lab::start(|_, _| Fault::None).await;
    let uploaded = upload(&lab, &bytes()).await.unwrap();
    assert_eq!(uploaded.md5, hex::encode(Md5::digest(bytes())));
    assert!(uploaded.etag.ends_with("-3"));
    let seen = lab.server.seen();
    let created = seen.iter().find(|seen| seen.query().contains("uploads")).unwrap();
    assert_eq!(created.header("x-amz-meta-md5sum"), uploaded.md5);
    for part in seen.iter().filter(|seen| is_part(seen)) {
        assert_eq!(part.header("content-md5"), STANDARD.encode(Md5::digest(&part.body)));
        assert_eq!(part.header("x-amz-checksum-crc32"), "", "Ceph 16 does not know it");
    }
}

#[tokio::test]
async fn a_storm_of_503_passes() {
    let failures = Arc::new(AtomicUsize::new(0));
    let lab = Lab::start(move |_, seen| {
        let storm = is_part(seen) && failures.fetch_add(1, Ordering::Relaxed) < 4;
        if storm { Fault::Refused(code(503, "SlowDown")) } else { Fault::None }
    })
    .await;
    upload(&lab, &bytes()).await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_costs_one_try_and_not_the_upload() {
    for hangs in [is_part as fn(&Seen) -> bool, is_complete, |seen| seen.method == "HEAD"] {
        let lost = Arc::new(AtomicUsize::new(0));
        let mut lab = Lab::start(move |_, seen| {
            let first = hangs(seen) && lost.fetch_add(1, Ordering::Relaxed) == 0;
            if first { Fault::Hang } else { Fault::None }
        })
        .await;
        lab.store = lab.store_within(std::time::Duration::from_secs(2));
        upload(&lab, &bytes()[..6 * MIB]).await.unwrap();
    }
}

#[tokio::test]
async fn damage_on_the_way_is_tried_again_once_and_not_more() {
    let failures = Arc::new(AtomicUsize::new(0));
    let lab = Lab::start(move |_, seen| {
        let first = is_part(seen) && failures.fetch_add(1, Ordering::Relaxed) == 0;
        if first { Fault::Refused(code(400, "BadDigest")) } else { Fault::None }
    })
    .await;
    upload(&lab, &bytes()).await.unwrap();

    let lab = Lab::start(|_, seen| match seen.header("content-md5") {
        "" => Fault::None,
        _ => Fault::Refused(code(400, "BadDigest")),
    })
    .await;
    let error = upload(&lab, b"small").await.unwrap_err();
    assert!(error.to_string().contains("400 BadDigest"), "{error}");
    assert_eq!(lab.server.seen().len(), 2);
}

#[tokio::test]
async fn an_upload_that_fails_for_good_is_aborted_with_retries() {
    let refused = Arc::new(AtomicUsize::new(0));
    let lab = Lab::start(move |_, seen| match () {
        _ if is_part(seen) && seen.query().contains("partNumber=2") => {
            Fault::Refused(code(503, "ServiceUnavailable"))
        }
        _ if is_abort(seen) && refused.fetch_add(1, Ordering::Relaxed) == 0 => {
            Fault::Refused(code(503, "SlowDown"))
        }
        _ => Fault::None,
    })
    .await;
    let error = upload(&lab, &bytes()).await.unwrap_err();
    assert!(error.to_string().contains("part 2"), "{error}");
    let tries = lab.server.seen();
    let tries = tries.iter().filter(|seen| seen.query().contains("partNumber=2")).count();
    assert_eq!(tries, QUICK.attempts as usize);
    assert_eq!(count(&lab, is_abort), 2);
    assert!(lab.keys().await.is_empty());
}

#[tokio::test]
async fn what_the_store_refuses_for_good_is_not_tried_again() {
    let lab = Lab::start(|_, seen| match is_part(seen) {
        true => Fault::Refused(code(403, "QuotaExceeded")),
        false => Fault::None,
    })
    .await;
    let error = upload(&lab, &bytes()).await.unwrap_err();
    assert!(error.to_string().contains("403 QuotaExceeded no"), "{error}");
    assert!(count(&lab, is_part) <= 3);
    assert_eq!(count(&lab, is_abort), 1);
}

#[tokio::test]
async fn a_completion_whose_answer_was_lost_is_a_success() {
    let first = Arc::new(AtomicUsize::new(0));
    let lab = Lab::start(move |_, seen| match is_complete(seen) {
        true if first.fetch_add(1, Ordering::Relaxed) == 0 => Fault::Lost(answer(504, "")),
        // As Ceph says of an upload that is complete.
        true => Fault::Refused(code(404, "NoSuchUpload")),
        false => Fault::None,
    })
    .await;
    upload(&lab, &bytes()).await.unwrap();
    assert_eq!(lab.keys().await, ["1/rootfs"]);
    assert_eq!(count(&lab, is_abort), 0);
}

#[tokio::test]
async fn a_store_that_holds_something_else_is_found_out() {
    let lab = Lab::start(|_, seen| match seen.method.as_str() {
        "HEAD" => Fault::Refused(
            http::Response::builder()
                .header("etag", "\"another\"")
                .header("content-length", 5)
                .body(axum::body::Body::empty())
                .unwrap(),
        ),
        _ => Fault::None,
    })
    .await;
    let error = upload(&lab, b"small").await.unwrap_err();
    assert!(matches!(error, Error::Differs { .. }), "{error}");
    assert!(error.to_string().contains("etag another"), "{error}");
}

#[tokio::test]
async fn cancelling_aborts_before_it_returns() {
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let lab = Lab::start(move |_, seen| {
        if is_part(seen) {
            stop.cancel();
        }
        Fault::None
    })
    .await;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes()).unwrap();
    let object = Object::new(BUCKET, "1/rootfs");
    let uploaded = lab.store.put_file(&object, file, &options(), &(), &cancel).await;
    assert!(matches!(uploaded, Err(Error::Cancelled)), "{uploaded:?}");
    assert_eq!(count(&lab, is_abort), 1);
    assert!(lab.keys().await.is_empty());
}

/// An object in the store, and a file that shares all but its first byte with it.
async fn with_base(lab: &Lab) -> (Reuse, Vec<u8>) {
    let base: Vec<u8> = bytes().into_iter().cycle().take(40 * MIB).collect();
    let object = Object::new(BUCKET, "0/rootfs");
    let never = CancellationToken::new();
    let etag = lab.store.put_bytes(&object, &base, &options(), &never).await.unwrap().etag;
    let ranges = vec![Shared { at: 1, from: 1, length: base.len() as u64 - 1 }];
    let mut changed = base;
    changed[0] ^= 1;
    (Reuse { object, etag, ranges }, changed)
}

async fn upload_with(lab: &Lab, reuse: Reuse, bytes: &[u8]) -> Result<Uploaded, Error> {
    let options = Options { reuse: Some(reuse), ..options() };
    let object = Object::new(BUCKET, "1/rootfs");
    lab.store.put_bytes(&object, bytes, &options, &CancellationToken::new()).await
}

fn is_copy(seen: &Seen) -> bool {
    is_part(seen) && !seen.header("x-amz-copy-source").is_empty()
}

async fn ensure_holds(lab: &Lab, bytes: &[u8]) {
    let object = Object::new(BUCKET, "1/rootfs");
    let held = lab.store.get_bytes(&object, bytes.len(), &CancellationToken::new()).await.unwrap();
    assert!(held == bytes, "the store holds other bytes");
}

#[tokio::test]
async fn parts_that_the_store_has_are_copied_there() {
    let lab = Lab::start(|_, _| Fault::None).await;
    let (reuse, bytes) = with_base(&lab).await;
    let before = lab.server.seen().len();
    let uploaded = upload_with(&lab, reuse, &bytes).await.unwrap();
    assert_eq!(uploaded.md5, hex::encode(Md5::digest(&bytes)));
    let seen = lab.server.seen();
    let sent: usize = seen[before..].iter().map(|seen| seen.body.len()).sum();
    assert!(sent < 6 * MIB, "{sent} bytes were sent");
    let copies: Vec<_> = seen.iter().filter(|seen| is_copy(seen)).collect();
    assert!(!copies.is_empty());
    // Ceph answers 411 to a PUT without it.
    assert!(copies.iter().all(|copy| copy.header("content-length") == "0"));
    ensure_holds(&lab, &bytes).await;
}

#[tokio::test]
async fn a_store_that_does_not_copy_gets_the_parts() {
    let lab = Lab::start(|_, seen| match is_copy(seen) {
        true => Fault::Refused(code(501, "NotImplemented")),
        false => Fault::None,
    })
    .await;
    let (reuse, bytes) = with_base(&lab).await;
    upload_with(&lab, reuse, &bytes).await.unwrap();
    ensure_holds(&lab, &bytes).await;
}

#[tokio::test]
async fn a_base_that_is_another_object_by_now_is_not_copied() {
    let lab = Lab::start(|_, _| Fault::None).await;
    let (reuse, bytes) = with_base(&lab).await;
    // Same size, other bytes: only the md5 of the copied part shows it where if-match is ignored.
    let other = vec![7; bytes.len()];
    let never = CancellationToken::new();
    lab.store.put_bytes(&reuse.object, &other, &options(), &never).await.unwrap();
    upload_with(&lab, reuse, &bytes).await.unwrap();
    ensure_holds(&lab, &bytes).await;
}
