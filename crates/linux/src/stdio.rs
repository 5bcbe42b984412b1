//! What this process writes to stdout and stderr, and where its stderr goes.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;

/// A write that did not take everything.
#[derive(Debug)]
pub struct Unwritten {
    /// Bytes that were written.
    pub taken: usize,
    /// Why.
    pub source: io::Error,
}

/// Writes all of `bytes`, without a buffer between. Waits for room in a pipe or a terminal, also where
/// somebody has made it non-blocking.
pub fn write_all(file: impl AsFd, bytes: &[u8]) -> Result<(), Unwritten> {
    let file = file.as_fd();
    let mut taken = 0;
    while taken < bytes.len() {
        match write(file, &bytes[taken..]) {
            Ok(0) => return Err(Unwritten { taken, source: io::ErrorKind::WriteZero.into() }),
            Ok(count) => taken += count,
            Err(Errno::EINTR) => {}
            // A hang-up is room as well: the next write says what is wrong.
            Err(Errno::EAGAIN) => wait_for_room(file),
            Err(errno) => return Err(Unwritten { taken, source: errno.into() }),
        }
    }
    Ok(())
}

fn wait_for_room(file: BorrowedFd<'_>) {
    let mut files = [PollFd::new(file, PollFlags::POLLOUT)];
    // Interrupted or refused: the write is tried again, which is right in either case.
    let _ = poll(&mut files, PollTimeout::from(1000_u16));
}

/// Writes all of `bytes` to a copy of `file`, for no longer than `limit`: a pipe that nobody reads does not
/// hold the caller up.
pub fn write_within(limit: Duration, file: impl AsFd, bytes: Vec<u8>) -> io::Result<()> {
    let file = file.as_fd().try_clone_to_owned()?;
    let (done, written) = mpsc::channel();
    // Hangs for as long as nobody reads, which is no longer than the process lives.
    std::thread::Builder::new()
        .spawn(move || done.send(write_all(&file, &bytes).map_err(|error| error.source)))?;
    written.recv_timeout(limit).unwrap_or_else(|_| {
        let text = format!("no reader took the output within {} s", limit.as_secs_f32());
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_full_disk_and_a_closed_pipe_are_errors() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let error = write_all(&full, b"line\n").unwrap_err();
        assert_eq!((error.taken, error.source.kind()), (0, io::ErrorKind::StorageFull));
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let error = write_all(&writer, b"line\n").unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_pipe_that_does_not_block_is_waited_for() {
        let (mut reader, writer) = io::pipe().unwrap();
        let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
        nix::fcntl::fcntl(&writer, flags).unwrap();
        let bytes = vec![b'x'; 300_000];
        let expected = bytes.clone();
        let writing = std::thread::spawn(move || write_all(&writer, &bytes).unwrap());
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        writing.join().unwrap();
        assert!(read == expected);
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody_up() {
        let (reader, writer) = io::pipe().unwrap();
        let limit = Duration::from_millis(50);
        let error = write_within(limit, &writer, vec![b'x'; 300_000]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        // The thread ends with the pipe.
        assert!(reader.as_raw_fd() > 2);
    }
}
