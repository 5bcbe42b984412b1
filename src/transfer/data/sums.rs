//! The list of checksums of an export, in the format of sha256sum(1).

use std::collections::HashMap;

/// The list for paths and their sums (hex), sorted by path.
pub fn list(sums: &mut [(String, String)]) -> String {
    sums.sort();
    sums.iter().map(|(path, sum)| line(path, sum)).collect()
}

fn line(path: &str, sum: &str) -> String {
    // Names with a newline or a backslash are escaped, and a leading backslash says so.
    if path.contains(['\n', '\\']) {
        let path = path.replace('\\', "\\\\").replace('\n', "\\n");
        return format!("\\{sum}  {path}\n");
    }
    format!("{sum}  {path}\n")
}

/// Reads such a list; lines that make no sense are left out.
pub fn parse(list: &str) -> HashMap<String, String> {
    let read = |line: &str| {
        let (escaped, line) = match line.strip_prefix('\\') {
            Some(line) => (true, line),
            None => (false, line),
        };
        let (sum, path) = line.split_once("  ").or_else(|| line.split_once(" *"))?;
        let path = match escaped {
            true => path.replace("\\n", "\n").replace("\\\\", "\\"),
            false => path.to_owned(),
        };
        (sum.len() == 64).then(|| (path.trim_start_matches("./").to_owned(), sum.to_owned()))
    };
    list.lines().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_comes_back() {
        let sum = "a".repeat(64);
        let mut sums = vec![("images/1/rootfs".to_owned(), sum.clone()), ("a\\b".into(), sum)];
        let text = list(&mut sums);
        assert!(text.starts_with("\\aaaa"), "{text}");
        assert_eq!(parse(&text), sums.into_iter().collect());
    }
}
