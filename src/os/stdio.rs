//! Where this process' stderr goes. Called by `remote::node`.

use std::io::{self, PipeReader};

/// What this process writes to stderr from now on can be read here.
pub fn capture_stderr() -> io::Result<PipeReader> {
    let (reader, writer) = io::pipe()?;
    nix::unistd::dup2_stderr(writer)?;
    Ok(reader)
}

/// Ends what [`capture_stderr`] gave: later lines go nowhere.
pub fn silence_stderr() -> io::Result<()> {
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    Ok(nix::unistd::dup2_stderr(null)?)
}
