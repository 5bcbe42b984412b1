//! When, and how fast, a connection's socket may be read.
//!
//! - No inbox is long: as fast as it comes.
//! - A long inbox is being worked off, and nothing waits for the client: not at all, until it is short.
//! - Otherwise (a program that does not read its input; output that waits for a window update, which
//!   comes through the same socket): slowly, so that signals, keystrokes and window updates of all
//!   channels still arrive. The less room is left in the budget, the slower, so it is never used up.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;

use super::budget::Budget;

/// An inbox of this many bytes is long; below half of it, it is short again.
const LONG: u64 = 2 << 20;
/// A program that has not come back for more in this time does not read.
const STALLED: Duration = Duration::from_millis(50);
/// What may be read at full speed before it goes slowly: enough to reach a window update that was sent
/// after a full window of data.
const BURST: f64 = (4 << 20) as f64;
/// Bytes a second at most, when it goes slowly...
const SLOWLY: f64 = (8 << 20) as f64;
/// ...and never faster than would fill the rest of the budget in this time.
const HORIZON: f64 = 512.0;
/// The window of all channels while an inbox is long: what others' packets have to wait behind. Two
/// packets, so that one can be on its way while the other is answered.
const SMALL_WINDOW: u32 = 64 << 10;

/// One connection's throttle.
#[derive(Debug)]
pub struct Throttle {
    epoch: Instant,
    budget: Arc<Budget>,
    loads: Mutex<Vec<Arc<Load>>>,
    long: AtomicUsize,
    writers: AtomicUsize,
    pub(super) reader: AtomicWaker,
}

/// How long one inbox is, and when its consumer last took something.
#[derive(Debug)]
pub(super) struct Load {
    epoch: Instant,
    long: AtomicBool,
    progress: AtomicU64,
}

/// What the socket's reader may do now.
#[derive(Debug, PartialEq)]
pub(super) enum Gate {
    Open,
    /// Read at most this many bytes, and report to [`Pace`] how many they were.
    AtMost(usize),
    /// Ask again after this time, or when the waker is called.
    Wait(Duration),
}

/// Output that waits for the client; while one lives the socket is not held.
#[derive(Debug)]
pub struct Waiting<'a>(&'a Throttle);

impl Throttle {
    pub fn new(budget: Arc<Budget>) -> Self {
        Self {
            epoch: Instant::now(),
            budget,
            loads: Mutex::default(),
            long: AtomicUsize::new(0),
            writers: AtomicUsize::new(0),
            reader: AtomicWaker::new(),
        }
    }

    /// To be held while output waits for a window or for the connection's queue.
    pub fn waiting(&self) -> Waiting<'_> {
        if self.writers.fetch_add(1, Ordering::Relaxed) == 0 {
            self.reader.wake();
        }
        Waiting(self)
    }

    /// The window that channels should be given, where `full` is the normal one.
    pub fn window(&self, full: u32) -> u32 {
        if self.long.load(Ordering::Relaxed) > 0 { SMALL_WINDOW.min(full) } else { full }
    }

    pub(super) fn enter(&self) -> Arc<Load> {
        let load = Arc::new(Load {
            epoch: self.epoch,
            long: AtomicBool::new(false),
            progress: AtomicU64::new(0),
        });
        self.loads().push(Arc::clone(&load));
        load
    }

    pub(super) fn leave(&self, load: &Arc<Load>) {
        self.set_long(load, false);
        self.loads().retain(|other| !Arc::ptr_eq(other, load));
    }

    /// An inbox has `queued` bytes; `overrun` says that there was no room for some of them.
    pub(super) fn report(&self, load: &Load, queued: u64, overrun: bool) {
        let was = load.long.load(Ordering::Relaxed);
        let limit = if was { LONG / 2 } else { LONG };
        self.set_long(load, overrun || queued > limit);
    }

    fn set_long(&self, load: &Load, long: bool) {
        let was = load.long.swap(long, Ordering::Relaxed);
        match (was, long) {
            (false, true) => {
                self.long.fetch_add(1, Ordering::Relaxed);
            }
            (true, false) => {
                self.long.fetch_sub(1, Ordering::Relaxed);
                self.reader.wake();
            }
            _ => {}
        }
    }

    pub(super) fn gate(&self, pace: &mut Pace, now: Instant) -> Gate {
        if self.long.load(Ordering::Relaxed) == 0 {
            *pace = Pace::new(now);
            return Gate::Open;
        }
        if self.writers.load(Ordering::Relaxed) == 0 && self.moving(now) {
            return Gate::Wait(STALLED);
        }
        let rate = (self.budget.room() as f64 / HORIZON).min(SLOWLY);
        pace.ask(rate, now)
    }

    /// A long inbox is being worked off.
    fn moving(&self, now: Instant) -> bool {
        let since = |load: &Load| {
            let progress =
                self.epoch + Duration::from_millis(load.progress.load(Ordering::Relaxed));
            now.saturating_duration_since(progress)
        };
        self.loads().iter().any(|load| load.long.load(Ordering::Relaxed) && since(load) < STALLED)
    }

    fn loads(&self) -> MutexGuard<'_, Vec<Arc<Load>>> {
        self.loads.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Load {
    pub(super) fn progress(&self) {
        let now = self.epoch.elapsed().as_millis() as u64;
        self.progress.store(now, Ordering::Relaxed);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.writers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A token bucket: bytes that may be read while it goes slowly.
#[derive(Debug)]
pub(super) struct Pace {
    tokens: f64,
    at: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: BURST, at: now }
    }

    fn ask(&mut self, rate: f64, now: Instant) -> Gate {
        const PACKET: f64 = 32768.0;
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + seconds * rate).min(BURST);
        self.at = now;
        if self.tokens >= 1.0 {
            return Gate::AtMost(self.tokens as usize);
        }
        let wait = if rate > 0.0 { (PACKET - self.tokens) / rate } else { 1.0 };
        Gate::Wait(Duration::from_secs_f64(wait.clamp(0.001, 1.0)))
    }

    pub(super) fn took(&mut self, bytes: usize) {
        self.tokens -= bytes as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle(disk: u64) -> Throttle {
        Throttle::new(Arc::new(Budget::new(1 << 20, disk, std::env::temp_dir())))
    }

    #[test]
    fn short_inboxes_leave_the_socket_alone() {
        let throttle = throttle(1 << 30);
        let now = Instant::now();
        throttle.report(&throttle.enter(), LONG, false);
        assert_eq!(throttle.gate(&mut Pace::new(now), now), Gate::Open);
        assert_eq!(throttle.window(2 << 20), 2 << 20);
    }

    #[test]
    fn a_long_inbox_that_is_worked_off_holds_the_socket_until_it_is_short() {
        let throttle = throttle(1 << 30);
        let load = throttle.enter();
        throttle.report(&load, LONG + 1, false);
        load.progress();
        let now = Instant::now();
        assert_eq!(throttle.gate(&mut Pace::new(now), now), Gate::Wait(STALLED));
        assert_eq!(throttle.window(2 << 20), SMALL_WINDOW);
        throttle.report(&load, LONG * 3 / 4, false);
        assert_eq!(throttle.gate(&mut Pace::new(now), now), Gate::Wait(STALLED), "hysteresis");
        throttle.report(&load, LONG / 2, false);
        assert_eq!(throttle.gate(&mut Pace::new(now), now), Gate::Open);
    }

    #[test]
    fn waiting_output_lets_the_socket_go() {
        let throttle = throttle(1 << 40);
        let load = throttle.enter();
        throttle.report(&load, LONG + 1, false);
        load.progress();
        let now = Instant::now();
        let waiting = throttle.waiting();
        assert_eq!(throttle.gate(&mut Pace::new(now), now), Gate::AtMost(BURST as usize));
        drop(waiting);
        assert!(matches!(throttle.gate(&mut Pace::new(now), now), Gate::Wait(_)));
    }

    #[test]
    fn a_program_that_does_not_read_lets_it_trickle_and_never_fills_the_budget() {
        let disk = 64 << 20;
        let throttle = throttle(disk);
        let load = throttle.enter();
        throttle.report(&load, LONG + 1, false);
        let mut now = Instant::now() + STALLED * 2;
        let mut pace = Pace::new(now);
        let mut read = 0;
        for _ in 0..100_000 {
            match throttle.gate(&mut pace, now) {
                Gate::AtMost(bytes) => {
                    let bytes = bytes.min(65536);
                    read += bytes as u64;
                    assert!(throttle.budget.disk.take(bytes as u64), "met the bound");
                    pace.took(bytes);
                }
                Gate::Wait(time) => now += time,
                Gate::Open => panic!("open with a long inbox"),
            }
        }
        assert!(read > disk / 2, "still trickles");
    }

    #[test]
    fn an_inbox_that_is_gone_no_longer_counts() {
        let throttle = throttle(1 << 30);
        let load = throttle.enter();
        throttle.report(&load, LONG + 1, false);
        throttle.leave(&load);
        let now = Instant::now();
        assert_eq!(throttle.gate(&mut Pace::new(now), now), Gate::Open);
        assert!(throttle.loads().is_empty());
    }
}
