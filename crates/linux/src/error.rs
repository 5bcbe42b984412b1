//! How an error reads in a log.

use crate::filesize;

/// An error and its causes on one line: `what: why: why`.
///
/// Error types in this program never print their own source, so nothing is said twice.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut limit = limit_behind(error);
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some library errors do print their source; saying it again helps nobody.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        limit = limit.or_else(|| limit_behind(cause));
        source = cause.source();
    }
    // What the kernel says of it, "File too large", names neither limit nor whose.
    match limit {
        Some(limit) => format!("{text} ({limit})"),
        None => text,
    }
}

fn limit_behind(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    filesize::limit_behind(error.downcast_ref::<std::io::Error>()?)
}
