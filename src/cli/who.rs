//! `who`: lists the sessions of a running job, as who(1) lists logins.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use super::exit::{self, Exit};
use super::output;
use crate::attend::control::Watcher;
use crate::contract::defaults;
use crate::ssh::{Activity, SessionInfo};
use crate::workspace::Layout;

/// List the SSH sessions of a job: user key, client address, command, start time, bytes
///
/// Run this as root in the agent's container, not in a session.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job's directory
    #[arg(long, value_name = "DIR", env = "IMAGE_ROOT_PARENT", default_value = defaults::IMAGE_ROOT_PARENT)]
    image_root_parent: PathBuf,

    /// Keep running: print a session again when it begins, transfers data or ends
    #[arg(long)]
    follow: bool,
}

pub async fn run(args: Args) -> anyhow::Result<Exit> {
    let mut watcher = Watcher::connect(&Layout::new(&args.image_root_parent))?;
    let mut known = BTreeMap::new();
    let mut begun = false;
    while let Some(sessions) = watcher.next().await? {
        if !begun {
            begun = output::text(HEAD)?;
        }
        let lines = changes(&mut known, sessions).into_iter().map(|line| format!("{line}\n"));
        let is_read = output::text(&lines.collect::<String>())?;
        if !(args.follow && begun && is_read) {
            break;
        }
    }
    Ok(exit::SUCCESS)
}

const HEAD: &str = "SESSION  SINCE                 STATE  BYTES IN   BYTES OUT  FROM                   KEY  WHAT\n";

/// A line for each session that is new, moved bytes or has ended since `known`, which is brought up
/// to date.
fn changes(known: &mut BTreeMap<u64, SessionInfo>, sessions: Vec<SessionInfo>) -> Vec<String> {
    let now: BTreeMap<u64, SessionInfo> =
        sessions.into_iter().map(|info| (info.id, info)).collect();
    let before = std::mem::replace(known, now);
    let ended = before.values().filter(|info| !known.contains_key(&info.id));
    let mut lines: Vec<String> = ended.map(|info| line(info, "ended")).collect();
    let moved = |info: &&SessionInfo| {
        let same = |old: &SessionInfo| {
            (old.bytes_in, old.bytes_out, old.connected)
                == (info.bytes_in, info.bytes_out, info.connected)
        };
        !before.get(&info.id).is_some_and(same)
    };
    let state = |info: &SessionInfo| if info.connected { "live" } else { "alone" };
    lines.extend(known.values().filter(moved).map(|info| line(info, state(info))));
    lines
}

fn line(info: &SessionInfo, state: &str) -> String {
    let what = match &info.activity {
        Activity::Shell => "shell".to_owned(),
        Activity::Sftp => "sftp".to_owned(),
        Activity::Command(command) => format!("exec {}", command.escape_debug()),
    };
    let terminal = if info.pty { " (terminal)" } else { "" };
    format!(
        "{:<8} {:<21} {state:<6} {:<10} {:<10} {:<22} {} {what}{terminal}",
        info.id,
        timestamp(info.since),
        info.bytes_in,
        info.bytes_out,
        info.peer,
        info.identity,
    )
}

fn timestamp(time: SystemTime) -> String {
    let seconds = |time: jiff::Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    jiff::Timestamp::try_from(time).map(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: u64, bytes_out: u64) -> SessionInfo {
        SessionInfo {
            id,
            connection: 1,
            peer: "10.0.0.1:5".parse().unwrap(),
            user: "root".into(),
            identity: "SHA256:x (me)".into(),
            activity: Activity::Command("echo \u{1b}[2J".into()),
            pty: false,
            since: SystemTime::UNIX_EPOCH,
            bytes_in: 0,
            bytes_out,
            idle: std::time::Duration::ZERO,
            connected: true,
        }
    }

    #[test]
    fn only_what_changed_is_shown_again() {
        let mut known = BTreeMap::new();
        assert_eq!(changes(&mut known, vec![session(1, 0), session(2, 0)]).len(), 2);
        assert_eq!(changes(&mut known, vec![session(1, 0), session(2, 0)]), Vec::<String>::new());
        let lines = changes(&mut known, vec![session(2, 9)]);
        assert!(lines[0].starts_with("1 ") && lines[0].contains("ended"), "{lines:?}");
        assert!(lines[1].contains("1970-01-01T00:00:00Z  live") && lines[1].contains(" 9 "));
        assert!(!lines[1].contains('\u{1b}'), "a command cannot act on the terminal");
    }
}
