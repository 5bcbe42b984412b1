//! Which squashfs-tools are installed.

use std::process::Command;

use tokio_util::sync::CancellationToken;

use super::Error;
use linux::process;

/// Major and minor version of squashfs-tools, as `mksquashfs version 4.5.1 (2022/03/17)` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

/// Reproducible images by default, `SOURCE_DATE_EPOCH`, `-quiet`.
const OLDEST: Version = Version(4, 4);

/// An error if `program` is missing or too old.
pub(super) fn installed(program: &'static str) -> Result<(), Error> {
    let mut first = String::new();
    let mut keep_first = |line: &str| {
        if first.is_empty() {
            first = line.into();
        }
    };
    let result = process::run(
        Command::new(program).arg("-version"),
        &CancellationToken::new(),
        &mut keep_first,
    );
    match result {
        // Some versions of `unsquashfs -version` end with status 1.
        Ok(_) | Err(process::Error::Failed { .. }) => {}
        Err(source) => return Err(Error::Missing { program, source }),
    }
    match parse(&first) {
        Some(version) if version >= OLDEST => Ok(()),
        _ => Err(Error::TooOld { program, found: first }),
    }
}

fn parse(line: &str) -> Option<Version> {
    let number = line.split_whitespace().skip_while(|word| *word != "version").nth(1)?;
    let mut parts = number.split(['.', '-']);
    Some(Version(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_lines_of_the_field_are_read() {
        for (line, version) in [
            ("mksquashfs version 4.5.1 (2022/03/17)", Version(4, 5)),
            ("mksquashfs version 4.6.1 (2023/03/25)", Version(4, 6)),
            ("unsquashfs version 4.4 (2019/08/29)", Version(4, 4)),
            ("mksquashfs version 4.4-git.1 (2019/09/15)", Version(4, 4)),
        ] {
            assert_eq!(parse(line), Some(version), "{line}");
        }
        assert_eq!(parse("SYNTAX: mksquashfs source1 ..."), None);
    }

    #[test]
    fn the_installed_tools_are_new_enough_and_a_missing_one_is_named() {
        for program in ["mksquashfs", "unsquashfs"] {
            installed(program).expect("this test needs squashfs-tools");
        }
        let error = installed("no-such-squashfs").unwrap_err();
        assert!(matches!(error, Error::Missing { program: "no-such-squashfs", .. }));
    }
}
