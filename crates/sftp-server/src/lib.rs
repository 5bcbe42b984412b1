#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![allow(clippy::needless_doctest_main, reason = "the example is a program of its own")]
#![warn(missing_docs, unreachable_pub)]

pub mod attrs;
pub mod codec;
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
            let _ = writeln!(std::io::stderr(), "sftp: {}", linux::error::chain(&error));
            1
        }
    }
}

#[cfg(feature = "testing")]
pub mod testing;
