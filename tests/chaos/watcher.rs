//! Sees how the job's directory changes, and sends a signal at the chosen change.
//!
//! A change is over when it is seen: what is killed has got at most some microseconds further.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::director::Spot;

const AGENT: &str = ".ims-job-agent";

/// What is done at which change.
pub struct Target {
    pub at: Spot,
    /// Nothing where the driver of the point does something else.
    pub signal: Option<Signal>,
}

pub struct Watcher {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    target: Option<Target>,
    /// Whom the signal is for; 0 before there is one.
    pid: AtomicI32,
    fired: AtomicBool,
    ended: AtomicBool,
    changes: Mutex<Vec<Spot>>,
}

impl Watcher {
    pub fn start(parent: &Path, target: Option<Target>) -> Self {
        let shared = Arc::new(Shared {
            target,
            pid: AtomicI32::new(0),
            fired: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            changes: Mutex::default(),
        });
        let watch = Watch::new(parent.to_owned(), shared.clone());
        let thread = Some(std::thread::spawn(move || watch.run()));
        Self { shared, thread }
    }

    pub fn set_process(&self, pid: u32) {
        self.shared.pid.store(pid as i32, Ordering::SeqCst);
    }

    pub fn fired(&self) -> bool {
        self.shared.fired.load(Ordering::SeqCst)
    }

    /// The changes so far.
    pub fn changes(&self) -> Vec<Spot> {
        self.shared.changes.lock().unwrap().clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watch {
    inotify: Inotify,
    parent: PathBuf,
    of_parent: WatchDescriptor,
    of_agent: Option<WatchDescriptor>,
    shared: Arc<Shared>,
    seen: BTreeMap<String, usize>,
}

const MASK: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_CLOSE_WRITE);

impl Watch {
    fn new(parent: PathBuf, shared: Arc<Shared>) -> Self {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
        let of_parent = inotify.add_watch(&parent, MASK).unwrap();
        Self { inotify, parent, of_parent, of_agent: None, shared, seen: BTreeMap::new() }
    }

    fn run(mut self) {
        while !self.shared.ended.load(Ordering::SeqCst) {
            let mut waiting = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut waiting, PollTimeout::from(50u8));
            for event in self.inotify.read_events().unwrap_or_default() {
                self.see(event);
            }
        }
    }

    fn see(&mut self, event: InotifyEvent) {
        let Some(name) = event.name.map(|name| name.to_string_lossy().into_owned()) else { return };
        let in_parent = event.wd == self.of_parent;
        let appeared = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        if in_parent && name == AGENT && event.mask.intersects(appeared) {
            let agent = self.parent.join(AGENT);
            self.of_agent = self.inotify.add_watch(&agent, MASK).ok();
            self.note("new", AGENT);
            // Made before the watch was.
            for entry in std::fs::read_dir(agent).into_iter().flatten().flatten() {
                self.note("new", &entry.file_name().to_string_lossy());
            }
            return;
        }
        let what = match event.mask {
            mask if mask.intersects(appeared) => "new",
            mask if mask.contains(AddWatchFlags::IN_CLOSE_WRITE) => "written",
            _ => "gone",
        };
        self.note(what, &name);
    }

    fn note(&mut self, what: &str, name: &str) {
        let name = if name.starts_with(".tmp") { ".tmp" } else { name };
        let label = format!("{what}.{}", name.trim_start_matches('.'));
        let nth = self.seen.entry(label.clone()).or_default();
        *nth += 1;
        let spot = Spot { label, nth: *nth };
        if let Some(target) = &self.shared.target
            && target.at == spot
            && !self.shared.fired.swap(true, Ordering::SeqCst)
            && let Some(signal) = target.signal
        {
            let pid = self.shared.pid.load(Ordering::SeqCst);
            if pid > 0 {
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
        self.shared.changes.lock().unwrap().push(spot);
    }
}
