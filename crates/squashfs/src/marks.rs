//! The extended attributes by which overlayfs marks what is in an upper layer.

use linux::xattrs::Xattrs;

/// The namespace in which overlayfs keeps its marks. Not `user.overlay.`: there they are only in overlays
/// that are mounted with `userxattr`; in others it is the user's, of container storage in the image for
/// example.
const MARKS: &[u8] = b"trusted.overlay.";

/// The mark's name if the attribute is one.
pub(crate) fn mark(name: &[u8]) -> Option<&[u8]> {
    name.strip_prefix(MARKS)
}

/// Attributes as a user of the overlay saw them: marks are left out, and those of an overlay inside
/// the overlay, which are stored with a prefix more, get their names back.
pub(crate) fn without_marks(xattrs: Xattrs) -> Xattrs {
    let escaped = |name: &[u8]| {
        let rest = mark(name)?.strip_prefix(b"overlay.")?;
        Some([MARKS, rest].concat())
    };
    xattrs
        .into_iter()
        .filter_map(|(name, value)| match (mark(&name), escaped(&name)) {
            (None, _) => Some((name, value)),
            (Some(_), Some(original)) => Some((original, value)),
            (Some(_), None) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_go_and_those_of_an_inner_overlay_get_their_names_back() {
        let named = |name: &str| (name.as_bytes().to_vec(), b"v".to_vec());
        let found = without_marks(vec![
            named("trusted.overlay.origin"),
            named("trusted.overlay.overlay.opaque"),
            named("user.overlay.opaque"),
            named("user.mine"),
        ]);
        let left = ["trusted.overlay.opaque", "user.overlay.opaque", "user.mine"].map(named);
        assert_eq!(found, left);
    }
}
