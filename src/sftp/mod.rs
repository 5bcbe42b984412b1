//! The SFTP server (protocol 3) that runs inside the jail on stdin and stdout.
//!
//! Started by the jail as a session's process, without exec, so that it needs nothing of the image;
//! or by main as `ENTRY`, for tests and as OpenSSH's `sftp -D`. It trusts the kernel for confinement:
//! `/` is the jail's. It answers as OpenSSH's sftp-server does; unlike it, reads and writes of one
//! session run in parallel, and an unknown or malformed request is answered where it can be.

mod attrs;
mod codec;
mod extended;
mod handles;
mod listing;
mod names;
mod ops;
pub mod request;
mod server;
mod status;
mod transfer;

use std::io::Write;

use linux::files;

/// Hidden first argument by which main recognises that it is to serve SFTP on stdio.
pub const ENTRY: &str = "__sftp";

/// Serves until the client ends; the result is the exit status. Errors go to stderr, which the
/// client's user sees.
pub fn serve_stdio() -> i32 {
    // The client is to hear that a file cannot grow, instead of losing its server.
    linux::filesize::survive_limit();
    /// As much as an unprivileged process may ask for (pipe-max-size).
    const PIPE: i32 = 1 << 20;
    let served = files::take_stdio().map_err(server::Ended::from).and_then(|(input, output)| {
        use std::os::fd::AsFd;
        files::enlarge_pipe(input.as_fd(), PIPE);
        files::enlarge_pipe(output.as_fd(), PIPE);
        server::serve(input, output)
    });
    match served {
        Ok(()) => 0,
        Err(error) => {
            // Nobody is left to hear of an error here.
            let _ = writeln!(std::io::stderr(), "sftp: {}", crate::telemetry::chain(&error));
            1
        }
    }
}

/// What `ENTRY` leads to.
pub fn entry() -> ! {
    linux::exec::exit_now(serve_stdio())
}

#[cfg(test)]
pub(crate) mod tests;
