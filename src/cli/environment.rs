//! Variables of the environment, for the whole program: rooms below get values.

#![allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]

use std::path::PathBuf;

/// A variable; one that is not UTF-8 is shown as such, so that it is a fault of its value and not taken for
/// unset.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// A variable that names a file or directory.
pub(super) fn path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// The home of this process's user.
pub(super) fn home() -> Option<PathBuf> {
    std::env::home_dir()
}
