use super::*;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// A job's directory with a root that has a `/tmp`.
fn job() -> (tempfile::TempDir, Places) {
    let dir = tempfile::tempdir().unwrap();
    let parent = dir.path().to_path_buf();
    let root = parent.join("image-root");
    fs::create_dir_all(root.join("tmp")).unwrap();
    (dir, Places { parent, root, build_failed: false })
}

/// Waits until the watch has been set and the first look is done.
async fn started(places: &Places) -> Signals {
    let signals = Signals::start(places.clone()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while signals.ready.load(std::sync::atomic::Ordering::Acquire) < 1 {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    signals
}

/// The next signal, which must come long before a scan would find it.
async fn soon(signals: &mut Signals) -> Signal {
    let start = Instant::now();
    let signal = tokio::time::timeout(Duration::from_secs(10), signals.next()).await.unwrap();
    // 100 ms is what is promised; a loaded machine gets some more.
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    signal
}

fn sh(script: &str, dir: &Path) {
    let status = Command::new("sh").args(["-ec", script]).current_dir(dir).status().unwrap();
    assert!(status.success(), "{script}");
}
