//! Completion signals of a job: the files that users touch (contract section 3).
//!
//! Called by `job`. A thread watches; tasks that await a signal read its result.

mod flag;
mod look;
mod watched;

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use tokio::sync::watch;

pub use flag::one_of;
pub use look::Places;
use watched::Watched;

pub use crate::contract::files::{BUILD_FAILED, COMPLETE, FAILED};

/// The files are checked this often regardless of inotify: its limits can be exhausted, and it does
/// not see changes by other hosts on a network filesystem.
const SCAN_INTERVAL: Duration = Duration::from_secs(1);

/// Between what wakes us and the look: a small part of the 100 ms within which a signal is seen.
const BREATH: Duration = Duration::from_millis(10);

/// What a user, or the build, has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Package the image.
    Complete,
    /// Give up.
    Failed,
    /// The build step of a create job failed.
    BuildFailed,
}

/// A signal and the file that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    pub kind: Kind,
    pub path: PathBuf,
}

/// Watches the signal files of a job.
///
/// Dropping it ends the watch and waits for its end, which takes no longer than a look: the image
/// root can be unmounted then.
#[derive(Debug)]
pub struct Signals {
    found: watch::Receiver<Option<Signal>>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Signals {
    /// Starts to watch; the watch is set when this returns. Signals that already exist are found
    /// too: remove stale ones before.
    pub fn start(places: Places) -> std::io::Result<Self> {
        let (sender, found) = watch::channel(None);
        let (stop, stopped) = bounded(0);
        let (wake, woken) = bounded(1);
        let mut watched = Watched::new(wake);
        watched.renew(&places);
        let thread = std::thread::Builder::new()
            .name("signal-watch".into())
            .spawn(move || run(&places, watched, &woken, &stopped, &sender))?;
        Ok(Self { found, stop: Some(stop), thread: Some(thread) })
    }

    /// The next signal. Cancel-safe.
    ///
    /// A signal counts once; if `failed` appears beside a `complete`, that is a new signal.
    pub async fn next(&mut self) -> Signal {
        loop {
            if self.found.changed().await.is_err() {
                // Only a panic ends the thread while `self` lives, and the panic hook has logged
                // it.
                return std::future::pending().await;
            }
            if let Some(signal) = self.found.borrow_and_update().clone() {
                return signal;
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.stop = None;
        // The panic hook has logged a panic of the thread.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn run(
    places: &Places,
    mut watched: Watched,
    woken: &Receiver<()>,
    stopped: &Receiver<()>,
    sender: &watch::Sender<Option<Signal>>,
) {
    let mut last = None;
    loop {
        // In this order: what appears after the watch is set wakes us, what was there is seen.
        watched.renew(places);
        let now = places.look();
        if now != last {
            if let Some(signal) = &now {
                tracing::info!(kind = ?signal.kind, path = %signal.path.display(), "signal file");
            }
            sender.send_replace(now.clone());
            last = now;
        }
        crossbeam_channel::select! {
            recv(stopped) -> _ => return,
            recv(woken) -> _ => {}
            default(SCAN_INTERVAL) => continue,
        }
        // A build may make thousands of files in /tmp each second: look at many of them at once.
        if stopped.recv_timeout(BREATH) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
