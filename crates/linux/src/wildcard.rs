//! Patterns of names: `*` and `?`, as far as fnmatch(3) goes without classes and escapes.

/// Whether `text` is what the pattern says: `*` stands for any bytes, `?` for one.
///
/// A star backtracks to the last one only, so that this takes at most pattern times text steps.
pub fn matches(pattern: impl AsRef<[u8]>, text: impl AsRef<[u8]>) -> bool {
    let (pattern, text) = (pattern.as_ref(), text.as_ref());
    let (mut p, mut t) = (0, 0);
    let mut star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    #[test]
    fn stars_take_any_text_and_question_marks_one_byte() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*.rpm", "a.rpm", true),
            ("*.rpm", "a.rpm.bak", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("10.*", "10.1.2.3", true),
            ("*.1", "10.0.1.1", true),
            ("a**", "a", true),
        ] {
            let found = super::matches(pattern, text);
            assert_eq!(found, expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let (pattern, text) = ("*a".repeat(1000), "a".repeat(999) + &"b".repeat(9000));
        assert!(!super::matches(pattern, text));
    }
}
