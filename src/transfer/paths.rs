//! Paths in archives and images: bytes, with slashes.

/// The components that name something: neither empty nor `.`.
pub fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// A path as messages show it.
pub fn shown(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}
