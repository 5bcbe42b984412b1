//! Our ends of a program's standard streams: pipes, or the master of its terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::net::unix::pipe;

use super::super::channel::Terminal;
use crate::jail::Stdio3;
use linux::files;
use linux::pty::Master;

/// A pipe of this size takes as much at once as is read and written at once.
const PIPE: i32 = 256 << 10;

pub(super) enum Stdio {
    Pipes { stdin: pipe::Sender, stdout: pipe::Receiver, stderr: pipe::Receiver },
    Terminal(Master),
}

impl Stdio {
    /// Our ends and the child's.
    pub(super) fn new(terminal: Option<Terminal>) -> io::Result<(Self, Stdio3)> {
        match terminal {
            Some(Terminal { pty, .. }) => {
                let master = Master::new(pty.master)?;
                Ok((Self::Terminal(master), Stdio3::Pty { slave: pty.slave }))
            }
            None => Self::pipes(),
        }
    }

    fn pipes() -> io::Result<(Self, Stdio3)> {
        let (stdin, our_stdin) = pipe_pair()?;
        let (our_stdout, stdout) = pipe_pair()?;
        let (our_stderr, stderr) = pipe_pair()?;
        let ours = Self::Pipes {
            stdin: pipe::Sender::from_owned_fd(our_stdin)?,
            stdout: pipe::Receiver::from_owned_fd(our_stdout)?,
            stderr: pipe::Receiver::from_owned_fd(our_stderr)?,
        };
        Ok((ours, Stdio3::Pipes { stdin, stdout, stderr }))
    }
}

/// Reading end, writing end.
fn pipe_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = io::pipe()?;
    // Refused beyond the user's pipe limit: then it stays at 64 KiB.
    files::enlarge_pipe(read.as_fd(), PIPE);
    Ok((read.into(), write.into()))
}
