//! Destination and format of log lines: one line per event on stderr.
//!
//! Logging never fails or blocks, whatever happens to stderr (see `sink`): events, panics and
//! progress bars.

use std::io::{self, IsTerminal};
use std::os::fd::{AsRawFd, RawFd};
use std::panic::PanicHookInfo;
use std::sync::OnceLock;
use std::time::Duration;

use indicatif::ProgressDrawTarget;
use jiff::Timestamp;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::{self, MakeWriter};

use super::sink::Sink;
use linux::stdio;

/// How long the process waits at its end for a stderr that blocks.
const LAST_LINES: Duration = Duration::from_secs(3);

/// How often a bar is drawn in a second, at most.
const DRAWN: u8 = 10;

static SINK: OnceLock<Sink> = OnceLock::new();

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people; coloured on a terminal.
    Human,
    /// One JSON object per line.
    Json,
}

/// The crates of this workspace that log.
const OUR_CRATES: [&str; 6] =
    ["ims_client", "ims_job_agent", "linux", "net", "s3_client", "squashfs"];

/// The least important events that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    Debug,
    #[default]
    Info,
    Warning,
    Error,
}

impl Level {
    /// The level as a filter: libraries are kept one step quieter than what is of this workspace.
    fn directives(self) -> String {
        let ours = |others: &str, level: &str| {
            let ours = OUR_CRATES.map(|name| format!(",{name}={level}"));
            format!("{others}{}", ours.concat())
        };
        match self {
            Level::Debug => ours("info", "debug"),
            Level::Info => ours("warn", "info"),
            Level::Warning => "warn".into(),
            Level::Error => "error".into(),
        }
    }
}

/// Sets up logging for the process. Called once, by `cli`.
pub fn init(format: Format, level: Level) {
    let write = |bytes: &[u8]| stdio::write_all(io::stderr(), bytes);
    let report = match format {
        Format::Human => |lost, why: &str| human("WARN", &loss(lost, why)),
        Format::Json => |lost, why: &str| json("WARN", &loss(lost, why)),
    };
    let sink = SINK.get_or_init(|| Sink::start(Box::new(write), report));
    let line = match format {
        Format::Human => human,
        Format::Json => json,
    };
    // The standard library's own hook writes to stderr itself, and waits for it.
    std::panic::set_hook(Box::new(move |panic| sink.line(line("ERROR", &panicked(panic)))));
    let filter = EnvFilter::new(level.directives());
    // The library reports its own errors with `eprintln!`, which panics if stderr fails.
    let base = fmt::fmt().with_env_filter(filter).log_internal_errors(false);
    let base = base.with_writer(ToSink(sink.clone()));
    match format {
        Format::Json => base.json().flatten_event(true).with_current_span(false).init(),
        Format::Human => base.with_target(false).with_ansi(io::stderr().is_terminal()).init(),
    }
}

/// Waits until every line is written, within bounds. Nothing is logged after it: the process ends,
/// or passes its stderr on.
pub fn flush() {
    if let Some(sink) = SINK.get() {
        sink.flush(LAST_LINES);
    }
}

/// Where bars are drawn: on stderr, by the same way as lines.
pub(super) fn bars() -> ProgressDrawTarget {
    match SINK.get() {
        Some(sink) => {
            let (input, output) = (Screen(sink.clone()), Screen(sink.clone()));
            ProgressDrawTarget::term(console::Term::read_write_pair(input, output), DRAWN)
        }
        None => ProgressDrawTarget::hidden(),
    }
}

fn loss(lost: u64, why: &str) -> String {
    format!("{lost} log lines are missing here: cannot write to stderr ({why})")
}

fn panicked(panic: &PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    let trace = std::backtrace::Backtrace::capture();
    let text = format!("internal error: thread {name} {}", panic.to_string().replace('\n', " "));
    match trace.status() {
        std::backtrace::BacktraceStatus::Captured => format!("{text}\n{trace}"),
        _ => text,
    }
}

/// A line as the library writes it, for what does not come from an event.
fn human(level: &str, message: &str) -> Vec<u8> {
    format!("{} {level:>5} {message}\n", now()).into_bytes()
}

fn json(level: &str, message: &str) -> Vec<u8> {
    let target = module_path!();
    let line = serde_json::json!({
        "timestamp": now(), "level": level, "message": message, "target": target,
    });
    format!("{line}\n").into_bytes()
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Takes events from the library, each in one write.
struct ToSink(Sink);

impl<'a> MakeWriter<'a> for ToSink {
    type Writer = &'a ToSink;

    fn make_writer(&'a self) -> &'a ToSink {
        self
    }
}

impl io::Write for &ToSink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.line(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The terminal at stderr, as the library of bars sees it.
struct Screen(Sink);

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Screen")
    }
}

impl io::Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.drawing(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Nobody asks the user anything.
impl io::Read for Screen {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Ok(0)
    }
}

impl AsRawFd for Screen {
    fn as_raw_fd(&self) -> RawFd {
        io::stderr().as_raw_fd()
    }
}
