//! The entry points of the images that IMS's pod templates are written for: links to this program,
//! which looks at the name it was started by.

use std::ffi::OsString;
use std::path::Path;

/// The command line for the name of an entry point; our own command lines are not changed.
pub fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut given = given.peekable();
    let command = given.peek().and_then(|name| command(Path::new(name)));
    let Some(command) = command else { return given.collect() };
    let name = given.next();
    let first = command.split(' ').map(OsString::from);
    name.into_iter().chain(first).chain(given).collect()
}

/// What follows in the command line is what the entry point is given: directories and a URL, or
/// nothing. Two of them are called `entrypoint.sh`: the one of the builder's image is in `/scripts`.
fn command(program: &Path) -> Option<&'static str> {
    Some(match program.file_name()?.to_str()? {
        "prep-env.sh" => "step fetch-image",
        "fetch-recipe.sh" => "step fetch-recipe",
        "wait_for_kiwi_repos.py" => "step wait-for-repositories",
        "build_ca_rpm.py" => "step build-ca-package",
        "buildenv-sidecar.sh" => "run --sessions separate --after-build --directory",
        "entrypoint.sh" if is_in_scripts(program) => "step build-image",
        "entrypoint.sh" => "sessions --after-build --directory",
        _ => return None,
    })
}

fn is_in_scripts(program: &Path) -> bool {
    let absolute = std::path::absolute(program);
    absolute.is_ok_and(|path| path.parent().is_some_and(|parent| parent.ends_with("scripts")))
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
    fn a_path_stands_for_a_command() {
        for (given, meant) in [
            (
                "/scripts/prep-env.sh /mnt/image http://x/y",
                "step fetch-image /mnt/image http://x/y",
            ),
            ("/scripts/fetch-recipe.sh /mnt/recipe u", "step fetch-recipe /mnt/recipe u"),
            ("/scripts/wait_for_kiwi_repos.py", "step wait-for-repositories"),
            ("/scripts/build_ca_rpm.py", "step build-ca-package"),
            ("/scripts/entrypoint.sh", "step build-image"),
            ("/scripts/entrypoint.sh /mnt/recipe", "step build-image /mnt/recipe"),
            (
                "/scripts/buildenv-sidecar.sh /mnt/image",
                "run --sessions separate --after-build --directory /mnt/image",
            ),
            ("/entrypoint.sh", "sessions --after-build --directory"),
            ("/entrypoint.sh /mnt/image", "sessions --after-build --directory /mnt/image"),
        ] {
            let name = given.split(' ').next().unwrap();
            assert_eq!(arguments_of(given), format!("{name} {meant}"));
        }
        assert_eq!(arguments_of("/usr/bin/ims-job-agent run"), "/usr/bin/ims-job-agent run");
    }

    #[test]
    fn what_is_made_of_an_entry_point_is_a_command_line_that_is_understood() {
        use clap::Parser;
        for given in [
            "/scripts/prep-env.sh /mnt/image http://x/y",
            "/scripts/fetch-recipe.sh /mnt/recipe http://x/y",
            "/scripts/wait_for_kiwi_repos.py",
            "/scripts/build_ca_rpm.py",
            "/scripts/entrypoint.sh",
            "/scripts/entrypoint.sh /mnt/recipe /mnt/image",
            "/scripts/buildenv-sidecar.sh /mnt/image",
            "/entrypoint.sh",
        ] {
            let words = arguments(given.split(' ').map(OsString::from));
            crate::cli::Cli::try_parse_from(words)
                .unwrap_or_else(|error| panic!("{given}: {error}"));
        }
    }
}
