//! The entry points of the images that IMS's pod templates are written for: links to this program,
//! which looks at the name it was started by.

use std::ffi::OsString;
use std::path::Path;

/// The command line that the name stands for; one of our own goes through as it is.
pub fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut given = given.peekable();
    let command = given.peek().and_then(|name| command(Path::new(name)));
    let Some(command) = command else { return given.collect() };
    let name = given.next();
    let first = command.split(' ').map(OsString::from);
    name.into_iter().chain(first).chain(given).collect()
}

/// What follows in the command line is what the entry point is given: a directory and a URL, a
/// directory, or nothing.
fn command(program: &Path) -> Option<&'static str> {
    Some(match program.file_name()?.to_str()? {
        "prep-env.sh" => "step fetch-image",
        "buildenv-sidecar.sh" => "run --sessions separate --directory",
        "entrypoint.sh" => "sessions --after-build --directory",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn arguments_of(line: &str) -> String {
        let words = arguments(line.split(' ').map(OsString::from));
        words.join(OsStr::new(" ")).into_string().unwrap()
    }

    #[test]
    fn a_name_stands_for_a_command() {
        for (given, meant) in [
            (
                "/scripts/prep-env.sh /mnt/image http://x/y",
                "step fetch-image /mnt/image http://x/y",
            ),
            ("/entrypoint.sh", "sessions --after-build --directory"),
            ("/entrypoint.sh /mnt/image", "sessions --after-build --directory /mnt/image"),
        ] {
            let name = given.split(' ').next().unwrap();
            assert_eq!(arguments_of(given), format!("{name} {meant}"));
        }
        assert_eq!(arguments_of("/usr/bin/ims-job-agent run"), "/usr/bin/ims-job-agent run");
    }
}
