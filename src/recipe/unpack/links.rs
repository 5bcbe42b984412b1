//! Symbolic links of an archive: none may point outside the directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::names::{Name, shown};
use super::{Error, Refused};
use linux::dir::Dir;

/// Kiwi copies everything below it into the image root; a link there is one of the image, and `/` in
/// its target is the image's.
const OVERLAY: &[u8] = b"root";

/// Whether the target, read as text, stays inside.
pub(super) fn stays_inside(name: &Name, target: &[u8]) -> bool {
    let in_overlay = name.parent().first().is_some_and(|first| first == OVERLAY);
    if target.is_empty() || target.contains(&0) {
        return false;
    }
    if target.starts_with(b"/") {
        return in_overlay;
    }
    // How far below the top the way has come: of the recipe, or of the image for its overlay.
    let mut depth = name.parent().len() - usize::from(in_overlay);
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            // `/..` of the image is the image's `/`.
            b".." if depth == 0 && in_overlay => {}
            b".." if depth == 0 => return false,
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    true
}

/// Whether the link at `path` points outside, now that all others exist: a chain of links can do
/// what none of them does alone. A link without a target does not.
pub(super) fn check(root: &Dir, path: &[u8]) -> Result<(), Error> {
    if path.starts_with(b"root/") {
        return Ok(());
    }
    match root.leads_outside(Path::new(OsStr::from_bytes(path))) {
        Ok(false) => Ok(()),
        Ok(true) => Err(Error::Refused {
            name: shown(path),
            why: Refused::LinkOutside { target: "what other links make of it".into() },
        }),
        Err(source) => Err(Error::Write { name: shown(path), source }),
    }
}
