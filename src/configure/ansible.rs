//! ansible-playbook as a child, and what its output reports.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tokio_util::sync::CancellationToken;

use crate::contract::vars;
use linux::process;

/// The longest part of a task's own message that is repeated, in bytes.
const MESSAGE: usize = 500;

/// One playbook to be played.
#[derive(Debug)]
pub struct Play<'a> {
    /// Where the repository lies.
    pub directory: &'a Path,
    pub playbook: &'a str,
    pub inventories: &'a [PathBuf],
    /// For sockets and the like: a short path, removed by the caller.
    pub scratch: &'a Path,
    /// Takes all of the output.
    pub log: &'a Path,
    /// Added to every line in our own log.
    pub layer: &'a str,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot write the output of ansible to {}", path.display())]
    Log { path: PathBuf, source: io::Error },
    #[error("the task {:?} failed: {}", .0.task, .0.message)]
    Task(FailedTask),
    #[error("ansible-playbook could not run the playbook")]
    Playbook(#[source] process::Error),
    #[error("cancelled while the playbook ran")]
    Cancelled,
}

/// The task that ended a playbook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailedTask {
    pub task: String,
    pub message: String,
}

/// Plays to the end. Every line goes to the log file and to our own log. Blocks.
pub fn play(play: &Play, cancel: &CancellationToken) -> Result<(), Error> {
    let failed = |source| Error::Log { path: play.log.into(), source };
    let mut log = File::create(play.log).map_err(failed)?;
    let mut follower = Follower::default();
    let mut written = Ok(());
    let result = process::run(&mut command(play), cancel, |line| {
        tracing::info!(layer = play.layer, "{line}");
        follower.line(line);
        if written.is_ok() {
            written = writeln!(log, "{line}");
        }
    });
    let warnings = match &result {
        Ok(output) => output.stderr.as_str(),
        Err(process::Error::Failed { stderr, .. }) => stderr,
        Err(_) => "",
    };
    if !warnings.is_empty() && written.is_ok() {
        written = writeln!(log, "{warnings}");
    }
    match (result, follower.failed) {
        (Ok(_), _) => written.map_err(failed),
        (Err(process::Error::Cancelled { .. }), _) => Err(Error::Cancelled),
        (Err(process::Error::Failed { .. }), Some(task)) => Err(Error::Task(task)),
        (Err(error), _) => Err(Error::Playbook(error)),
    }
}

/// The version of ansible, for the record. Blocks.
pub fn version(cancel: &CancellationToken) -> Result<String, process::Error> {
    let mut first = String::new();
    let mut command = Command::new("ansible-playbook");
    without_secrets(command.arg("--version"));
    process::run(&mut command, cancel, |line| {
        if first.is_empty() {
            line.clone_into(&mut first);
        }
    })?;
    Ok(first)
}

/// Whether ansible can take a directory as an inventory: it has variables of hosts or groups, or a file
/// that can be read as one. Blocks.
pub fn check_inventory(directory: &Path, cancel: &CancellationToken) -> Result<(), process::Error> {
    if ["group_vars", "host_vars"].iter().any(|name| directory.join(name).is_dir()) {
        return Ok(());
    }
    let mut command = Command::new("ansible-inventory");
    without_secrets(&mut command);
    command.arg("-i").arg(directory).arg("--list");
    command.current_dir(directory).env("ANSIBLE_INVENTORY_UNPARSED_FAILED", "True");
    process::run(&mut command, cancel, |_| {}).map(drop)
}

/// Repositories may run what they like beside us: not with our credentials.
pub fn without_secrets(command: &mut Command) {
    for var in [&vars::S3_ACCESS_KEY, &vars::S3_SECRET_KEY, &vars::OAUTH_CLIENT_SECRET] {
        command.env_remove(var.name);
    }
}

fn command(play: &Play) -> Command {
    let mut command = Command::new("ansible-playbook");
    without_secrets(&mut command);
    for inventory in play.inventories {
        command.arg("-i").arg(inventory);
    }
    command
        .arg(play.playbook)
        .current_dir(play.directory)
        .env("PYTHONUNBUFFERED", "1")
        // What the lines below are read by.
        .env("ANSIBLE_STDOUT_CALLBACK", "default")
        .env("ANSIBLE_NOCOLOR", "1")
        .env_remove("ANSIBLE_FORCE_COLOR")
        .env("ANSIBLE_RETRY_FILES_ENABLED", "False")
        .env("ANSIBLE_SSH_CONTROL_PATH_DIR", play.scratch.join("cp"))
        .env("ANSIBLE_LOCAL_TEMP", play.scratch.join("tmp"));
    command
}

/// Reads the lines of ansible's default callback.
#[derive(Debug, Default)]
struct Follower {
    task: String,
    failed: Option<FailedTask>,
}

impl Follower {
    fn line(&mut self, line: &str) {
        if let Some(task) = heading(line) {
            self.task = task.into();
        } else if line.trim() == "...ignoring" {
            self.failed = None;
        } else if (line.starts_with("fatal: [") || line.starts_with("failed: ["))
            && self.failed.as_ref().is_none_or(|failed| failed.task != self.task)
        {
            self.failed = Some(FailedTask { task: self.task.clone(), message: message(line) });
        }
    }
}

/// `TASK [name] ***`, and its kin.
fn heading(line: &str) -> Option<&str> {
    let rest =
        ["TASK [", "RUNNING HANDLER [", "PLAY ["].iter().find_map(|it| line.strip_prefix(it))?;
    Some(rest.rsplit_once(']').map_or(rest, |(name, _)| name))
}

/// What a task says of its failure: `msg` of its result, where that can be read.
fn message(line: &str) -> String {
    let result = line.split_once("=> ").map_or(line, |(_, result)| result);
    let parsed: Option<serde_json::Value> = serde_json::from_str(result).ok();
    let said = |field: &str| {
        let text = parsed.as_ref()?.get(field)?.as_str()?.trim().to_owned();
        (!text.is_empty()).then_some(text)
    };
    let mut text = match (said("msg"), said("stderr")) {
        (Some(message), Some(stderr)) => format!("{message}: {stderr}"),
        (Some(message), None) => match said("module_stderr") {
            Some(stderr) => format!("{message}: {stderr}"),
            None => message,
        },
        _ => result.to_owned(),
    };
    if text.len() > MESSAGE {
        text.truncate(text.floor_char_boundary(MESSAGE));
        text.push_str(" ...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(lines: &[&str]) -> Option<FailedTask> {
        let mut follower = Follower::default();
        lines.iter().for_each(|line| follower.line(line));
        follower.failed
    }

    #[test]
    fn the_failed_task_is_told_with_its_message() {
        let failed = follow(&[
            "PLAY [Compute] ****",
            "TASK [Gathering Facts] ****",
            "ok: [x]",
            "TASK [role : break [it]] *****",
            r#"fatal: [x]: FAILED! => {"changed": true, "msg": "non-zero return code", "stderr": "no\n"}"#,
            "PLAY RECAP ***",
        ]);
        let failed = failed.unwrap();
        assert_eq!(failed.task, "role : break [it]");
        assert_eq!(failed.message, "non-zero return code: no");
    }

    #[test]
    fn an_ignored_failure_is_none() {
        let lines = ["TASK [a] **", "fatal: [x]: FAILED! => {\"msg\": \"m\"}", "...ignoring"];
        assert_eq!(follow(&lines), None);
    }

    #[test]
    fn the_first_failed_item_of_a_loop_is_told() {
        let failed = follow(&[
            "TASK [loop] **",
            r#"failed: [x] (item=2) => {"msg": "two"}"#,
            r#"fatal: [x]: FAILED! => {"msg": "all items completed"}"#,
        ]);
        assert_eq!(failed.unwrap().message, "two");
    }

    #[test]
    fn an_unreachable_host_is_a_failure_even_cut_off() {
        let failed = follow(&["TASK [a] **", "fatal: [x]: UNREACHABLE! => {\"msg\": \"Failed to"]);
        assert!(failed.unwrap().message.contains("Failed to"));
    }
}
