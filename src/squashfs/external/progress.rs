//! What the tools' progress output says.

/// The percentage in a line of output: `[====\ ] 123/4567   2%`, or `2` alone, which
/// `-percentage` (4.6) writes.
pub(super) fn percent(line: &str) -> Option<u64> {
    let line = line.trim();
    let number = match line.strip_suffix('%') {
        Some(bar) if bar.starts_with('[') => bar.rsplit(' ').next()?,
        Some(_) => return None,
        None => line,
    };
    number.parse().ok().filter(|percent| *percent <= 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_bare_numbers_count_and_other_lines_do_not() {
        assert_eq!(percent("[=====\\                ] 123/4567   2%"), Some(2));
        assert_eq!(percent("[======================|] 248/248 100%"), Some(100));
        assert_eq!(percent("42"), Some(42));
        assert_eq!(percent("\t64.36% of uncompressed filesystem size (0.59 Kbytes)"), None);
        assert_eq!(percent("Parallel mksquashfs: Using 2 processors"), None);
        assert_eq!(percent("created 3 files"), None);
        assert_eq!(percent("101"), None);
        assert_eq!(percent(""), None);
    }
}
