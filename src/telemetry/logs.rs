//! Where log lines go and what they look like: one line an event on stderr.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people; coloured on a terminal.
    Human,
    /// One JSON object a line.
    Json,
}

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
    /// The level as a filter: libraries are kept one step quieter than the agent's own rooms.
    fn directives(self) -> &'static str {
        match self {
            Level::Debug => "info,ims_job_agent=debug",
            Level::Info => "warn,ims_job_agent=info",
            Level::Warning => "warn",
            Level::Error => "error",
        }
    }
}

/// Sets up logging for the process. Called once, by `cli`.
pub fn init(format: Format, level: Level) {
    let filter = EnvFilter::new(level.directives());
    let base = fmt::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        Format::Json => base.json().flatten_event(true).with_current_span(false).init(),
        Format::Human => base.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
    }
}
