//! Serves SFTP on stdin and stdout, as OpenSSH's sftp-server does.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(u8::try_from(sftp_server::serve_stdio()).unwrap_or(u8::MAX))
}
