//! Logs, progress, metrics and probes. Every room logs through `tracing`; nothing else prints.

pub mod logs;
pub mod progress;
pub mod redact;
pub mod status;

/// An error and its causes on one line: `what: why: why`.
///
/// Error types in this program never print their own source, so nothing is said twice.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some library errors do print their source; saying it again helps nobody.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
