//! Progress of a long step: a bar on a terminal, a log line every few seconds elsewhere.
//!
//! What does long work takes a [`Meter`], or a [`Progress`] if it is a library; it does not know who looks.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use progress::Progress;

/// Time between two progress lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// What a step's progress is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Bytes,
    Files,
    Percent,
}

impl Unit {
    /// The unit's name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Bytes => "bytes",
            Unit::Files => "files",
            Unit::Percent => "percent",
        }
    }
}

/// Counts the progress of one step. Cheap to clone; every clone counts for the same step.
#[derive(Debug, Clone)]
pub struct Meter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    step: &'static str,
    unit: Unit,
    done: AtomicU64,
    total: AtomicU64,
    started: Instant,
    /// Milliseconds after `started` at which the last line was logged.
    last_line: AtomicU64,
    bar: Option<ProgressBar>,
    /// False for meters that only count.
    logs: bool,
}

impl Meter {
    /// Starts a step. `total` of 0 means that the total is not known.
    pub fn start(step: &'static str, unit: Unit, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(step, unit, total));
        Self::new(step, unit, total, bar, true)
    }

    /// A meter that counts and shows nothing, for callers that do not report progress.
    pub fn hidden() -> Self {
        Self::new("", Unit::Bytes, 0, None, false)
    }

    fn new(
        step: &'static str,
        unit: Unit,
        total: u64,
        bar: Option<ProgressBar>,
        logs: bool,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                step,
                unit,
                done: AtomicU64::new(0),
                total: AtomicU64::new(total),
                started: Instant::now(),
                last_line: AtomicU64::new(0),
                bar,
                logs,
            }),
        }
    }

    pub fn set_total(&self, total: u64) {
        self.inner.total.store(total, Ordering::Relaxed);
        if let Some(bar) = &self.inner.bar {
            bar.set_length(total);
        }
    }

    /// Counts `amount` more units as done.
    pub fn add(&self, amount: u64) {
        let done = self.inner.done.fetch_add(amount, Ordering::Relaxed) + amount;
        self.show(done);
    }

    /// Sets how much is done in all, for steps that learn this from a child process.
    pub fn set(&self, done: u64) {
        self.inner.done.store(done, Ordering::Relaxed);
        self.show(done);
    }

    pub fn done(&self) -> u64 {
        self.inner.done.load(Ordering::Relaxed)
    }

    /// 0 means that the total is not known.
    pub fn total(&self) -> u64 {
        self.inner.total.load(Ordering::Relaxed)
    }

    pub fn step(&self) -> &'static str {
        self.inner.step
    }

    pub fn unit(&self) -> Unit {
        self.inner.unit
    }

    /// Ends the step with a line that says how much was done in what time.
    pub fn finish(&self) {
        if let Some(bar) = &self.inner.bar {
            bar.finish_and_clear();
        }
        if self.inner.logs {
            tracing::info!(
                step = self.inner.step,
                done = %amount(self.inner.unit, self.done()),
                seconds = format_args!("{:.1}", self.inner.started.elapsed().as_secs_f64()),
                "step finished"
            );
        }
    }

    fn show(&self, done: u64) {
        if let Some(bar) = &self.inner.bar {
            bar.set_position(done);
        } else if self.inner.logs && self.line_is_due() {
            let total = self.total();
            tracing::info!(
                step = self.inner.step,
                done = %amount(self.inner.unit, done),
                total = %amount(self.inner.unit, total),
                percent = (done * 100).checked_div(total),
                "progress"
            );
        }
    }

    /// True for one caller each interval.
    fn line_is_due(&self) -> bool {
        let last = self.inner.last_line.load(Ordering::Relaxed);
        let now = self.inner.started.elapsed().as_millis() as u64;
        now.saturating_sub(last) >= LINE_INTERVAL.as_millis() as u64
            && self
                .inner
                .last_line
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

impl Progress for Meter {
    fn set_total(&self, total: u64) {
        Meter::set_total(self, total);
    }

    fn add(&self, amount: u64) {
        Meter::add(self, amount);
    }

    fn set(&self, done: u64) {
        Meter::set(self, done);
    }
}

fn amount(unit: Unit, value: u64) -> String {
    match unit {
        Unit::Bytes => format!("{}", indicatif::BinaryBytes(value)),
        Unit::Files => format!("{value} files"),
        Unit::Percent => format!("{value} %"),
    }
}

fn bar(step: &'static str, unit: Unit, total: u64) -> ProgressBar {
    let template = match unit {
        Unit::Bytes => "{msg:>10} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        Unit::Files => "{msg:>10} [{bar:40}] {pos}/{len} files {eta}",
        Unit::Percent => "{msg:>10} [{bar:40}] {pos} % {eta}",
    };
    let style = ProgressStyle::with_template(template)
        .expect("the templates above are valid")
        .progress_chars("=> ");
    let bar = ProgressBar::with_draw_target(Some(total), super::logs::bars());
    bar.with_style(style).with_message(step)
}
