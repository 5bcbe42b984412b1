//! The SFTP server (protocol 3) that runs inside the jail on stdin and stdout.

/// Hidden first argument by which main recognises that it is to serve SFTP on stdio.
pub const ENTRY: &str = "__sftp";

/// Serves until the client ends; the result is the exit status.
pub fn serve_stdio() -> i32 {
    1
}

/// What `ENTRY` leads to.
pub fn entry() -> ! {
    crate::os::exec::exit_now(serve_stdio())
}
