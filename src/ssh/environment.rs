//! Variables that a connection adds to the environment of a session; the jail sets those of the
//! account and the job.

use std::ffi::OsString;

use super::auth::Grant;
use super::channel::Setup;
use super::connection::Connection;

/// The client's variables that are allowed, the key's, and those of sshd(8); later ones win.
pub(super) fn environment(
    connection: &Connection,
    grant: &Grant,
    setup: &Setup,
    original_command: Option<&[u8]>,
) -> Vec<(OsString, OsString)> {
    use std::os::unix::ffi::OsStrExt;
    let mut variables: Vec<(OsString, OsString)> = Vec::new();
    let mut set = |name: &str, value: OsString| {
        variables.retain(|(other, _)| other != name);
        variables.push((name.into(), value));
    };
    for (name, value) in &setup.environment {
        set(name, value.into());
    }
    for (name, value) in &grant.options.environment {
        set(name, value.into());
    }
    let (peer, local) = (connection.peer, connection.local);
    let (from, to) = (peer.ip().to_canonical(), local.ip().to_canonical());
    set("SSH_CLIENT", format!("{from} {} {}", peer.port(), local.port()).into());
    set("SSH_CONNECTION", format!("{from} {} {to} {}", peer.port(), local.port()).into());
    if let Some(agent) = &setup.agent {
        set("SSH_AUTH_SOCK", agent.into());
    }
    if let Some(terminal) = &setup.terminal {
        set("SSH_TTY", terminal.pty.name.clone().into());
        if !terminal.term.is_empty() && !terminal.term.contains('\0') {
            set("TERM", terminal.term.clone().into());
        }
    }
    if let Some(command) = original_command {
        set("SSH_ORIGINAL_COMMAND", std::ffi::OsStr::from_bytes(command).to_owned());
    }
    variables
}
