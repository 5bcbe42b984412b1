//! Clones the repositories of layers with the git program.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use url::Url;

use super::Source;
use linux::process;
use net::redact;

/// Longest time of one command. A server that sends nothing over HTTP is given up sooner.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Seconds without a byte over HTTP; GIT_HTTP_LOW_SPEED_TIME, git's own, wins.
const SILENCE: &str = "http.lowSpeedTime=60";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot clone {url}")]
    Clone { url: String, source: process::Error },
    #[error("{url} has no commit {commit}")]
    Commit { url: String, commit: String, source: process::Error },
    #[error("cannot determine which commit of {url} was checked out")]
    Head { url: String, source: process::Error },
}

/// Clones into `directory`, which must not exist, and gives the commit that is checked out. Blocks.
pub fn clone(
    source: &Source,
    directory: &Path,
    cancel: &CancellationToken,
) -> Result<String, Error> {
    let url = || public_url(&source.clone_url);
    let mut clone = git();
    clone.args(["clone", "--quiet"]);
    match (&source.commit, &source.branch) {
        (None, Some(branch)) => clone.args(["--single-branch", "--branch", branch]),
        _ => clone.arg("--no-checkout"),
    };
    clone.arg("--").arg(&source.clone_url).arg(directory);
    process::run_within(LIMIT, &mut clone, cancel, drop_line)
        .map_err(|source| Error::Clone { url: url(), source })?;
    if let Some(commit) = &source.commit {
        let mut checkout = git();
        checkout.arg("-C").arg(directory).args(["checkout", "--quiet", "--detach", commit, "--"]);
        process::run_within(LIMIT, &mut checkout, cancel, drop_line)
            .map_err(|source| Error::Commit { url: url(), commit: commit.clone(), source })?;
    }
    let mut head = String::new();
    let mut command = git();
    command.arg("-C").arg(directory).args(["rev-parse", "HEAD"]);
    process::run_within(LIMIT, &mut command, cancel, |line| line.clone_into(&mut head))
        .map_err(|source| Error::Head { url: url(), source })?;
    Ok(head)
}

/// A URL without the password that may be in it.
pub fn public_url(text: &str) -> String {
    Url::parse(text).map_or_else(|_| text.into(), |url| redact::url(&url))
}

fn git() -> Command {
    let mut git = Command::new("git");
    super::ansible::without_secrets(&mut git);
    // Nobody is there to type a password, or to say yes to ssh.
    git.env("GIT_TERMINAL_PROMPT", "0")
        .envs([("SSH_ASKPASS", "false"), ("SSH_ASKPASS_REQUIRE", "force")]);
    git.args(["-c", "advice.detachedHead=false", "-c", "http.lowSpeedLimit=1", "-c", SILENCE]);
    git
}

fn drop_line(line: &str) {
    tracing::debug!(line, "git");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_not_told() {
        assert_eq!(public_url("https://u:p@h/r.git"), "https://h/r.git");
        assert_eq!(public_url("/srv/r.git"), "/srv/r.git");
        assert_eq!(public_url("file:///srv/r.git"), "file:///srv/r.git");
    }

    #[test]
    fn a_failed_clone_says_what_git_said() {
        let dir = tempfile::tempdir().unwrap();
        let source = Source {
            clone_url: "file:///no/such/repository".into(),
            commit: None,
            branch: Some("main".into()),
        };
        let error = clone(&source, &dir.path().join("to"), &CancellationToken::new()).unwrap_err();
        let text = crate::telemetry::chain(&error);
        assert!(text.contains("/no/such/repository") && text.contains("not"), "{text}");
    }
}
