//! Downloads from servers that misbehave as real ones do.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use axum::response::Response;
use futures::{StreamExt, stream};
use md5::{Digest, Md5};

use super::*;
use net::Trust;
use net::testing::{QUICK, Seen, Server, answer, cut_off, trickle};

/// What is downloaded in these tests.
fn object() -> Vec<u8> {
    (0..1_000_003u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn md5_of(bytes: &[u8]) -> String {
    hex::encode(Md5::digest(bytes))
}

fn options() -> Options {
    Options {
        part_size: 300_000,
        concurrency: 2,
        md5: Some(md5_of(&object())),
        size: Some(object().len() as u64),
        etag: None,
        policy: QUICK,
        resume: false,
    }
}

/// The range that was asked for.
fn range(seen: &Seen) -> Range<usize> {
    let (first, last) = seen.header("range")["bytes=".len()..].split_once('-').unwrap();
    let last: usize = last.parse().unwrap();
    first.parse().unwrap()..(last + 1).min(object().len())
}

/// The answer of a good server to a ranged GET, but for its body.
fn part(seen: &Seen, etag: &str) -> http::response::Builder {
    let (range, size) = (range(seen), object().len());
    Response::builder()
        .status(206)
        .header("etag", format!("\"{etag}\""))
        .header("content-length", range.len())
        .header("content-range", format!("bytes {}-{}/{size}", range.start, range.end - 1))
}

fn good(seen: &Seen) -> Response {
    part(seen, "e-4").body(object()[range(seen)].to_vec().into()).unwrap()
}

/// Gives each URL once.
struct Urls(Mutex<Vec<Url>>);

#[async_trait]
impl Source for Urls {
    async fn url(&self) -> Result<Url, SourceError> {
        let mut urls = self.0.lock().unwrap();
        if urls.is_empty() { Err("no more URLs".into()) } else { Ok(urls.remove(0)) }
    }
}

/// A download to a directory of its own.
struct Client {
    dir: tempfile::TempDir,
    options: Options,
    cancel: CancellationToken,
}

impl Client {
    fn new(options: Options) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), options, cancel: CancellationToken::new() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    async fn get(&self, urls: &[Url]) -> Result<Downloaded, Error> {
        let source = Arc::new(Urls(Mutex::new(urls.to_vec())));
        let http = net::client(&Trust::System, std::time::Duration::from_secs(20)).unwrap();
        let path = self.path();
        to_file(&http, source, &path, &self.options, &(), &self.cancel).await
    }

    /// The error of a download, of which nothing may be left.
    async fn fails(&self, urls: &[Url]) -> Error {
        let error = self.get(urls).await.unwrap_err();
        assert!(!self.path().exists(), "the partial file is left");
        error
    }

    async fn succeeds(&self, urls: &[Url]) {
        let downloaded = self.get(urls).await.unwrap();
        assert_eq!(downloaded.size, object().len() as u64);
        assert!(std::fs::read(self.path()).unwrap() == object(), "another content");
    }
}

#[tokio::test]
async fn a_broken_range_goes_on_where_it_broke_with_the_etag_pinned() {
    let server = Server::start(|_, seen| {
        let whole = range(&seen);
        let piece = object()[whole.start..whole.end.min(whole.start + 70_000)].to_vec();
        part(&seen, "e-4").body(cut_off(piece)).unwrap()
    })
    .await;
    Client::new(options()).succeeds(std::slice::from_ref(&server.url)).await;
    let seen = server.seen();
    assert!(seen.len() > 12, "{} requests", seen.len());
    assert!(seen[1..].iter().all(|seen| seen.header("if-match") == "\"e-4\""));
    let starts: std::collections::HashSet<_> = seen.iter().map(|seen| range(seen).start).collect();
    assert_eq!(starts.len(), seen.len(), "a byte was asked for twice");
}

#[tokio::test]
async fn a_storm_of_503_passes_or_ends_the_download() {
    let server =
        Server::start(|number, seen| if number % 3 == 2 { good(&seen) } else { answer(503, "") })
            .await;
    let calm = Options { concurrency: 1, ..options() };
    Client::new(calm).succeeds(std::slice::from_ref(&server.url)).await;

    let server = Server::start(|_, _| answer(503, "")).await;
    let error = Client::new(options()).fails(std::slice::from_ref(&server.url)).await;
    assert!(matches!(error, Error::Status { status: 503, .. }), "{error}");
    assert_eq!(server.seen().len(), QUICK.attempts as usize);
}

#[tokio::test]
async fn an_object_that_changes_meanwhile_is_an_error() {
    let server = Server::start(|number, seen| {
        let etag = if number == 0 { "old" } else { "new" };
        part(&seen, etag).body(object()[range(&seen)].to_vec().into()).unwrap()
    })
    .await;
    let error = Client::new(options()).fails(&[server.url]).await.to_string();
    assert!(error.contains("changed during the download"), "{error}");
    assert!(error.contains("was old, now new"), "{error}");

    let honest = |number, seen: Seen| if number == 0 { good(&seen) } else { answer(412, "") };
    let server = Server::start(honest).await;
    let error = Client::new(options()).fails(&[server.url]).await;
    assert!(matches!(error, Error::Changed { .. }), "{error}");

    let server = Server::start(|_, seen| good(&seen)).await;
    let manifest = Options { etag: Some("\"of the manifest\"".to_owned()), ..options() };
    let error = Client::new(manifest).fails(&[server.url]).await;
    assert!(matches!(error, Error::Changed { .. }), "{error}");
}

#[tokio::test]
async fn another_size_or_md5_is_an_error() {
    let server = Server::start(|_, seen| good(&seen)).await;
    let url = std::slice::from_ref(&server.url);
    let error = Client::new(Options { size: Some(7), ..options() }).fails(url).await;
    assert!(matches!(error, Error::Size { expected: 7, found: 1_000_003, .. }), "{error}");
    let error = Client::new(Options { md5: Some(md5_of(b"")), ..options() }).fails(url).await;
    assert!(matches!(error, Error::Md5 { .. }), "{error}");
    Client::new(Options { md5: Some(String::new()), ..options() }).succeeds(url).await;
}

#[tokio::test]
async fn a_range_that_never_gets_further_is_given_up() {
    let server = Server::start(|_, seen| match range(&seen).start {
        300_000 => part(&seen, "e-4").body(cut_off(Vec::new())).unwrap(),
        _ => good(&seen),
    })
    .await;
    let error = Client::new(options()).fails(&[server.url]).await;
    assert!(matches!(error, Error::Broken { .. }), "{error}");
}

#[tokio::test]
async fn an_expired_url_is_replaced_at_the_start_and_midway() {
    let server = Server::start(|number, seen| match seen.uri.path() {
        "/expired" => answer(403, "<Code>AccessDenied</Code>"),
        "/short" if number > 1 => answer(403, "<Code>AccessDenied</Code>"),
        _ => good(&seen),
    })
    .await;
    let urls = ["expired", "short", "fresh"].map(|path| server.url.join(path).unwrap());
    Client::new(options()).succeeds(&urls).await;
    let fresh = server.seen();
    let fresh: Vec<_> = fresh.iter().filter(|seen| seen.uri.path() == "/fresh").collect();
    assert!(!fresh.is_empty());
    assert!(fresh.iter().all(|seen| seen.header("if-match") == "\"e-4\""));
}

#[tokio::test]
async fn a_fresh_url_of_another_object_is_noticed() {
    let server = Server::start(|number, seen| match seen.uri.path() {
        "/short" if number > 0 => answer(403, ""),
        "/fresh" => part(&seen, "other").body(object()[range(&seen)].to_vec().into()).unwrap(),
        _ => good(&seen),
    })
    .await;
    let urls = ["short", "fresh"].map(|path| server.url.join(path).unwrap());
    let error = Client::new(options()).fails(&urls).await;
    assert!(matches!(error, Error::Changed { .. }), "{error}");
}

#[tokio::test]
async fn a_source_whose_fresh_urls_are_refused_is_given_up() {
    let server = Server::start(|_, _| answer(403, "")).await;
    let secret = server.url.join("?X-Amz-Signature=abcd").unwrap();
    let error = Client::new(options()).fails(&vec![secret; 9]).await;
    assert!(matches!(error, Error::Denied { status: 403, .. }), "{error}");
    assert!(!error.to_string().contains("abcd"), "{error}");
    assert_eq!(server.seen().len(), 2);
}

#[tokio::test]
async fn a_missing_object_is_told_at_once() {
    let server = Server::start(|_, _| answer(404, "")).await;
    let error = Client::new(options()).fails(std::slice::from_ref(&server.url)).await;
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn without_ranges_a_break_starts_again_from_the_start() {
    let server = Server::start(|number, _| {
        let body = match number {
            0 => cut_off(object()[..400_000].to_vec()),
            _ => object().into(),
        };
        let size = object().len();
        Response::builder().header("etag", "e").header("content-length", size).body(body).unwrap()
    })
    .await;
    Client::new(options()).succeeds(std::slice::from_ref(&server.url)).await;
    assert_eq!(server.seen().len(), 2);
}

/// Rules for a server that is too slow.
fn hasty() -> Options {
    let (deadline, answer) = (Duration::from_millis(900), Duration::from_millis(300));
    let policy = Policy { attempts: u32::MAX, deadline, answer, ..QUICK };
    Options { policy, ..options() }
}

#[tokio::test]
async fn a_download_that_trickles_goes_on_over_another_connection() {
    let server = Server::start(|number, seen| match number {
        0 => part(&seen, "e-4").body(trickle(object()[range(&seen)].to_vec())).unwrap(),
        _ => good(&seen),
    })
    .await;
    Client::new(hasty()).succeeds(std::slice::from_ref(&server.url)).await;
    let seen = server.seen();
    let resumed = seen.iter().any(|seen| (1..1000).contains(&range(seen).start));
    assert!(resumed, "what had come was not used");
}

#[tokio::test]
async fn a_server_that_trickles_for_ever_is_given_up() {
    type Body = fn(&[u8]) -> axum::body::Body;
    let late_and_cut: Body = |bytes| {
        let first = trickle(bytes[..1].to_vec());
        // Each answer gets a little further and breaks off.
        axum::body::Body::from_stream(first.into_data_stream().chain(stream::once(async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            Err(axum::Error::new("cut by the test"))
        })))
    };
    let slow: Body = |bytes| trickle(bytes.to_vec());
    for (ranged, body) in [(true, slow), (false, slow), (true, late_and_cut)] {
        let server = Server::start(move |_, seen| match ranged {
            true => part(&seen, "e-4").body(body(&object()[range(&seen)])).unwrap(),
            false => answer(200, body(&object())),
        })
        .await;
        let started = std::time::Instant::now();
        let error = Client::new(hasty()).fails(std::slice::from_ref(&server.url)).await;
        assert!(started.elapsed() < Duration::from_secs(20), "took {:?}", started.elapsed());
        assert!(server.seen().len() > 1, "tried once");
        let text = linux::error::chain(&error);
        let expected =
            if std::ptr::fn_addr_eq(body, slow) { "less than 1024 B/s" } else { "was interrupted" };
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn a_manifest_that_trickles_is_given_up() {
    use crate::testing::{BUCKET, Fault, Lab};
    let lab = Lab::start(|_, _| Fault::Refused(answer(200, trickle(object())))).await;
    let store = lab.store.with_policy(hasty().policy);
    let manifest = crate::Object::new(BUCKET, "1/manifest.json");
    let error = store.get_bytes(&manifest, 1 << 20, &CancellationToken::new()).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(lab.server.seen().len() > 1, "tried once");
}

#[tokio::test]
async fn a_cancelled_download_leaves_nothing() {
    let client = Arc::new(Client::new(options()));
    let cancel = client.cancel.clone();
    let server = Server::start(move |number, seen| {
        if number == 1 {
            cancel.cancel();
        }
        let never = futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
        part(&seen, "e").body(axum::body::Body::from_stream(never)).unwrap()
    })
    .await;
    assert!(matches!(client.fails(&[server.url]).await, Error::Cancelled));
}

/// A small file system that is full soon. Needs root.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn new(kibibytes: u32) -> Self {
        use linux::mount::{Mounted, MsFlags};
        let dir = tempfile::tempdir().unwrap();
        let (source, size) = (std::path::Path::new("tmpfs"), format!("size={kibibytes}k"));
        Mounted::new("tmpfs", source, dir.path(), MsFlags::empty(), Some(&size))
            .expect("this test mounts: run as root")
            .forget();
        Self(dir)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // A hashing thread may hold the file for another moment.
        linux::mount::detach(self.0.path()).unwrap();
    }
}

#[tokio::test]
async fn a_full_disk_is_named_with_its_figures() {
    let full = Tmpfs::new(512);
    let http = net::client(&Trust::System, std::time::Duration::from_secs(20)).unwrap();
    let path = full.0.path().join("rootfs");
    let known = Server::start(|_, seen| good(&seen)).await;
    // Without a length the file system is full before anybody knows.
    let unknown = Server::start(|_, _| {
        let pieces: Vec<Result<Vec<u8>, std::io::Error>> =
            object().chunks(9_000).map(|piece| Ok(piece.to_vec())).collect();
        answer(200, axum::body::Body::from_stream(futures::stream::iter(pieces)))
    })
    .await;
    for server in [known, unknown] {
        let options = Options { size: None, ..options() };
        let source = Arc::new(FixedUrl::new(server.url));
        let cancel = CancellationToken::new();
        let error = to_file(&http, source, &path, &options, &(), &cancel).await.unwrap_err();
        let Error::NoSpace { needed, free, .. } = error else { panic!("{error}") };
        assert!(needed > free, "{needed} needed, {free} free");
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn what_a_broken_try_has_left_does_not_count_as_missing_room() {
    // 1000 KiB of room for 977 KiB.
    let http = net::client(&Trust::System, std::time::Duration::from_secs(20)).unwrap();
    let cancel = CancellationToken::new();
    let without_ranges = Server::start(|number, _| {
        let body = match number {
            0 => cut_off(object()[..900_000].to_vec()),
            _ => object().into(),
        };
        let size = object().len();
        Response::builder().header("etag", "e").header("content-length", size).body(body).unwrap()
    })
    .await;
    let with_ranges = Server::start(|_, seen| good(&seen)).await;
    for (server, resume) in [(without_ranges, false), (with_ranges, true)] {
        let tight = Tmpfs::new(1000);
        let path = tight.0.path().join("rootfs");
        std::fs::write(&path, &object()[..900_000]).unwrap();
        let options = Options { resume, ..options() };
        let source = Arc::new(FixedUrl::new(server.url));
        to_file(&http, source, &path, &options, &(), &cancel).await.unwrap();
    }
}

#[tokio::test]
async fn what_an_earlier_download_has_left_is_not_fetched_again() {
    let server = Server::start(|_, seen| good(&seen)).await;
    let client = Client::new(Options { part_size: 100_000, resume: true, ..options() });
    // Cut off in the seventh part, with two on their way: five are complete.
    std::fs::write(client.path(), &object()[..650_000]).unwrap();
    client.succeeds(std::slice::from_ref(&server.url)).await;
    let starts: Vec<usize> = server.seen().iter().map(|seen| range(seen).start).collect();
    assert!(starts.iter().all(|start| *start == 0 || *start >= 500_000), "{starts:?}");
    // Left by another object: reported, removed, and right at the next try.
    std::fs::write(client.path(), vec![7; 650_000]).unwrap();
    assert!(matches!(client.fails(std::slice::from_ref(&server.url)).await, Error::Md5 { .. }));
    client.succeeds(std::slice::from_ref(&server.url)).await;
}
