//! The inotify watches on the directories of signal files.

use std::path::{Path, PathBuf};

use crossbeam_channel::Sender;
use notify::{Config, EventHandler, INotifyWatcher, RecursiveMode, Watcher};

use super::look::Places;
use linux::dir::Dir;

/// The watches: the job's directory, the image root (a `/tmp` may be replaced) and its `/tmp`.
#[derive(Debug)]
pub(super) struct Watched {
    watcher: Option<INotifyWatcher>,
    parent: Slot,
    root: Slot,
    tmp: Slot,
}

/// One directory that is watched. A watch is on the directory itself and not on its name, so it is
/// set by descriptor, which also holds for a `/tmp` that is a link inside the image.
#[derive(Debug)]
struct Slot {
    name: &'static str,
    watched: Option<Directory>,
    /// The last failure was logged.
    logged: bool,
}

#[derive(Debug)]
struct Directory {
    id: (u64, u64),
    path: PathBuf,
    /// Keeps `path`, which names this descriptor, true.
    _dir: Dir,
}

impl Watched {
    /// No watch is set yet. `wake` gets a message when something happens in a watched directory.
    pub(super) fn new(wake: Sender<()>) -> Self {
        let watcher = INotifyWatcher::new(Wake(wake), Config::default())
            .inspect_err(|error| told_once(error, "signal files"))
            .ok();
        Self {
            watcher,
            parent: Slot::new("the job's directory"),
            root: Slot::new("the image root"),
            tmp: Slot::new("/tmp of the image root"),
        }
    }

    /// As it is where inotify cannot be had.
    #[cfg(test)]
    pub(super) fn blind() -> Self {
        let (wake, _) = crossbeam_channel::bounded(1);
        Self { watcher: None, ..Self::new(wake) }
    }

    /// Sets watches on the directories as they are now: any of them may have been replaced.
    pub(super) fn renew(&mut self, places: &Places) {
        let Some(watcher) = &mut self.watcher else { return };
        self.parent.renew(watcher, Dir::open(&places.parent).ok());
        self.root.renew(watcher, Dir::open(&places.root).ok());
        self.tmp.renew(watcher, places.tmp());
    }
}

impl Slot {
    fn new(name: &'static str) -> Self {
        Self { name, watched: None, logged: false }
    }

    fn renew(&mut self, watcher: &mut INotifyWatcher, dir: Option<Dir>) {
        let id = dir.as_ref().and_then(|dir| dir.stat_self().ok()).map(|at| (at.st_dev, at.st_ino));
        if id == self.watched.as_ref().map(|watched| watched.id) {
            return;
        }
        if let Some(old) = self.watched.take() {
            // Fails if the directory was removed, and its watch with it.
            let _ = watcher.unwatch(&old.path);
        }
        let (Some(dir), Some(id)) = (dir, id) else { return };
        // With a dot at its end the path goes through the descriptor's link instead of naming it.
        let path = dir.path_of(Path::new("."));
        match watcher.watch(&path, RecursiveMode::NonRecursive) {
            Ok(()) => {
                self.logged = false;
                self.watched = Some(Directory { id, path, _dir: dir });
            }
            Err(error) if !self.logged => {
                self.logged = true;
                told_once(&error, self.name);
            }
            Err(_) => {}
        }
    }
}

fn told_once(error: &notify::Error, what: &str) {
    tracing::warn!(
        error = %crate::telemetry::chain(error),
        watched = what,
        "no inotify watch (raise fs.inotify.max_user_watches or max_user_instances?): polling \
         once a second instead"
    );
}

struct Wake(Sender<()>);

impl EventHandler for Wake {
    fn handle_event(&mut self, _event: notify::Result<notify::Event>) {
        // What happened is seen by looking; a message that waits is as good as two.
        let _ = self.0.try_send(());
    }
}
