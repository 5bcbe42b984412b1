//! Paths that are left out of an image.

use linux::wildcard;

/// A pattern for paths below the root, anchored there as mksquashfs's `-wildcards` are: `*` and `?`
/// match within one component. What lies below a directory that matches is left out with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclude {
    components: Vec<Vec<u8>>,
}

impl Exclude {
    /// What the pattern matches; slashes around it are of no meaning.
    pub fn new(pattern: &[u8]) -> Self {
        let components = pattern
            .split(|byte| *byte == b'/')
            .filter(|component| !component.is_empty() && *component != b".")
            .map(<[u8]>::to_vec)
            .collect();
        Self { components }
    }

    /// True if the path, relative to the root, is to be left out.
    pub fn matches(&self, path: &[u8]) -> bool {
        let mut components = path.split(|byte| *byte == b'/');
        !self.components.is_empty()
            && self.components.iter().all(|pattern| {
                components.next().is_some_and(|name| wildcard::matches(pattern, name))
            })
            && components.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_anchored_and_stars_stay_in_their_component() {
        for (pattern, path, expected) in [
            ("tmp", "tmp", true),
            ("/tmp/", "tmp", true),
            ("tmp", "var/tmp", false),
            ("tmp/*", "tmp/a", true),
            ("tmp/*", "tmp", false),
            ("var/*/x", "var/log/x", true),
            ("*.rpm", "a.rpm", true),
            ("*.rpm", "a.rpm.bak", false),
            ("a*b*c", "aXbYbZc", true),
            ("a?c", "abc", true),
            ("", "anything", false),
        ] {
            let found = Exclude::new(pattern.as_bytes()).matches(path.as_bytes());
            assert_eq!(found, expected, "{pattern} {path}");
        }
    }
}
