//! What the tools' progress output says.

/// The percentage in a line of output: `[====\ ] 123/4567   2%`.
pub(super) fn percent(line: &str) -> Option<u64> {
    let bar = line.trim().strip_suffix('%').filter(|bar| bar.starts_with('['))?;
    bar.rsplit(' ').next()?.parse().ok().filter(|percent| *percent <= 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_count_and_other_lines_do_not() {
        assert_eq!(percent("[=====\\                ] 123/4567   2%"), Some(2));
        assert_eq!(percent("[======================|] 248/248 100%"), Some(100));
        assert_eq!(percent("\t64.36% of uncompressed filesystem size (0.59 Kbytes)"), None);
        assert_eq!(percent("Parallel mksquashfs: Using 2 processors"), None);
        assert_eq!(percent("created 3 files"), None);
        assert_eq!(percent("[=] 1/1 101%"), None);
        assert_eq!(percent(""), None);
    }
}
