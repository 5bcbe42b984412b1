//! The output of kiwi, line by line: written to our log; progress and errors are extracted.
//!
//! `[ LEVEL   ]: 12:34:56 | message`, and for bars `[ INFO    ]: Processing: [###   ] 40%`.

use crate::telemetry::progress::Meter;

/// Lines of an error that are kept.
const ERROR_LINES: usize = 20;

/// How kiwi, rpm, zypper and dnf report a full volume.
const FULL: [&str; 4] =
    ["no space left on device", "errno 28", "more space on the", "disk space error"];

pub(super) struct Log<'a> {
    meter: &'a Meter,
    /// The last error, and what followed it without a level of its own.
    error: Vec<String>,
    in_error: bool,
    full: bool,
}

impl<'a> Log<'a> {
    pub fn new(meter: &'a Meter) -> Self {
        Self { meter, error: Vec::new(), in_error: false, full: false }
    }

    pub fn line(&mut self, line: &str) {
        self.full |= says_full(line);
        let (level, message) = split(line);
        if let Some(percent) = percent(message) {
            return self.meter.set(percent);
        }
        match level {
            Some("ERROR") => {
                self.error = vec![message.into()];
                // The end of the job logs it.
                tracing::debug!("kiwi: {message}");
            }
            Some("WARNING") => tracing::warn!("kiwi: {message}"),
            Some("DEBUG") => tracing::debug!("kiwi: {message}"),
            Some(_) => tracing::info!("kiwi: {message}"),
            None if self.in_error && self.error.len() < ERROR_LINES => {
                self.error.push(message.into());
            }
            None => tracing::info!("kiwi: {message}"),
        }
        self.in_error = level == Some("ERROR") || (level.is_none() && self.in_error);
    }

    /// Lines that came another way.
    pub fn rest(&mut self, text: &str) {
        text.lines().for_each(|line| self.line(line));
    }

    /// Kiwi's own words for what went wrong.
    pub fn error(&self) -> Option<String> {
        let lines: Vec<_> = self.error.iter().map(|line| line.trim_matches([' ', ':'])).collect();
        let text = lines.join(" ");
        (!text.trim().is_empty()).then(|| text.trim().to_owned())
    }

    /// Whether a program reported a full volume.
    pub fn says_full(&self) -> bool {
        self.full
    }
}

pub(super) fn says_full(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    FULL.iter().any(|text| line.contains(text))
}

/// The level and the message of a line.
fn split(line: &str) -> (Option<&str>, &str) {
    let parts = line.trim_start().strip_prefix("[ ").and_then(|rest| rest.split_once("]: "));
    let Some((level, rest)) = parts else { return (None, line.trim_end()) };
    let level = level.trim();
    if level.is_empty() || !level.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return (None, line.trim_end());
    }
    // Bars have no time.
    let message = match rest.split_once(" | ") {
        Some((time, message)) if time.len() == 8 && time.contains(':') => message,
        _ => rest,
    };
    (Some(level), message.trim_end())
}

/// `Processing: [####      ] 40%`
fn percent(message: &str) -> Option<u64> {
    let (_, bar) = message.split_once(": [")?;
    let (_, number) = bar.split_once("] ")?;
    number.trim().strip_suffix('%')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        assert_eq!(
            split("[ INFO    ]: 13:03:57 | --> Alias: lab"),
            (Some("INFO"), "--> Alias: lab")
        );
        assert_eq!(split("No provider of 'x' found."), (None, "No provider of 'x' found."));
        let bar = "[ INFO    ]: Processing: [########            ] 40%";
        assert_eq!(percent(split(bar).1), Some(40));
        assert_eq!(percent("[1/5] installing x"), None);
    }

    #[test]
    fn the_last_error_is_kept_with_its_lines() {
        let meter = Meter::hidden();
        let mut log = Log::new(&meter);
        for line in [
            "[ INFO    ]: 13:07:48 | Installing",
            "[ INFO    ]: Processing: [####                ] 20%",
            "[ ERROR   ]: 13:07:48 | KiwiBootStrapPhaseFailed: Bootstrap failed: No provider of 'a'.",
            "No provider of 'b' found.",
            ": ",
            "[ INFO    ]: 13:07:48 | Cleaning up SystemPrepare instance",
            "[ WARNING ]: 13:07:48 | remove_hierarchy: path /tmp is protected",
        ] {
            log.line(line);
        }
        assert_eq!(meter.done(), 20);
        let error = log.error().unwrap();
        let expected = "KiwiBootStrapPhaseFailed: Bootstrap failed: No provider of 'a'. No provider of 'b' found.";
        assert_eq!(error, expected);
        assert!(!log.says_full());
        log.line("tar: write error: No space left on device");
        assert!(log.says_full());
    }
}
