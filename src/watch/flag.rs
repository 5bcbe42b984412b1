//! Waits for a file that another container of the pod creates as a signal.

use std::path::Path;
use std::sync::Arc;

use notify::{Config, EventHandler, INotifyWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use super::SCAN_INTERVAL;

/// Waits until `directory` has one of these files, and gives the first of them. Cancel-safe.
pub async fn one_of(directory: &Path, names: &[&'static str]) -> &'static str {
    let changed = Arc::new(Notify::new());
    // The first check, which comes after this, finds files that already exist.
    let _watcher = watcher(directory, changed.clone())
        .inspect_err(|error| {
            let error = crate::telemetry::chain(error);
            tracing::warn!(error, "no inotify watch: polling once a second instead");
        })
        .ok();
    loop {
        let there = |name: &&&str| directory.join(name).symlink_metadata().is_ok();
        if let Some(name) = names.iter().find(there) {
            return name;
        }
        // Network filesystems report no events for changes by other hosts.
        let _ = tokio::time::timeout(SCAN_INTERVAL, changed.notified()).await;
    }
}

fn watcher(directory: &Path, changed: Arc<Notify>) -> notify::Result<INotifyWatcher> {
    let mut watcher = INotifyWatcher::new(Wake(changed), Config::default())?;
    watcher.watch(directory, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

struct Wake(Arc<Notify>);

impl EventHandler for Wake {
    fn handle_event(&mut self, _event: notify::Result<notify::Event>) {
        self.0.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_seen_whether_it_was_there_before_or_comes_later() {
        let dir = tempfile::tempdir().unwrap();
        let waiting = tokio::spawn({
            let dir = dir.path().to_owned();
            async move { one_of(&dir, &["ready", "exiting"]).await }
        });
        std::fs::write(dir.path().join("exiting"), "").unwrap();
        assert_eq!(waiting.await.unwrap(), "exiting");
        assert_eq!(one_of(dir.path(), &["ready", "exiting"]).await, "exiting");
    }
}
