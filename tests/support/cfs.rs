//! CFS's SSH client: paramiko, one exec at the end.

use std::path::Path;
use std::process::Command;

/// Ends the session as CFS does: one exec, and the connection is closed as soon as the server has
/// accepted it, without waiting for the command's end.
const CFS: &str = r#"
import sys, paramiko
port, key, command = sys.argv[1:]
client = paramiko.SSHClient()
client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
client.connect("127.0.0.1", port=int(port), username="root", allow_agent=False, look_for_keys=False,
               pkey=paramiko.ECDSAKey.from_private_key_file(key))
client.exec_command(command)
client.close()
"#;

/// Runs `command` on the server at `port` with an ECDSA key.
pub fn exec(port: u16, private_key: &Path, command: &str) {
    let mut client = Command::new("/usr/bin/python3");
    client.args(["-c", CFS, &port.to_string()]).arg(private_key).arg(command);
    super::tree::run(&mut client);
}
