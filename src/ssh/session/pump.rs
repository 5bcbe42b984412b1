//! The pumps between a program's standard streams and its channel.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

use super::super::connection::Outlet;
use super::super::flow::Inbox;
use super::super::registry::Live;
use super::Discard;
use super::record::Recorder;
use linux::pty::Master;

/// What is read from a program at once, and so the most that waits for a client's window.
const READ: usize = 64 << 10;

/// What a program may still write after its client has left. One that writes little (`touch`, a script
/// with a few messages) ends well; one that writes on and on gets SIGPIPE, as under sshd.
const LAST_WORDS: usize = 16 << 20;

/// How long a terminal that others keep open must be silent after its program's end: a thread of the kernel
/// passes the last output on, on a busy machine some time later.
const LAST_SHOW: Duration = Duration::from_millis(500);

/// Which of a program's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// Input for a program on pipes, until the client's EOF or until the program takes no more. What had
/// come before a channel was closed is still delivered.
pub(super) async fn input(inbox: &Inbox, live: &Live, mut stdin: pipe::Sender) -> io::Result<()> {
    let _discard = Discard(inbox);
    while let Some(bytes) = inbox.next().await? {
        match stdin.write_all(&bytes).await {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
        live.count_in(bytes.len());
    }
    Ok(())
}

/// Input for a terminal. EOF is nothing here, as in sshd: a terminal's end of input is a character.
pub(super) async fn typing(inbox: &Inbox, live: &Live, master: Master) -> io::Result<()> {
    let _discard = Discard(inbox);
    while let Some(bytes) = inbox.next().await? {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let count = master.write(rest).await?;
            rest = &rest[count..];
        }
        live.count_in(bytes.len());
    }
    Ok(())
}

/// Output of a program on pipes, until it has closed its end.
pub(super) async fn output(
    outlet: &Outlet,
    live: &Live,
    mut pipe: pipe::Receiver,
    stream: Stream,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ);
        if pipe.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        if !send(outlet, live, buffer.split().freeze(), stream).await {
            return last_words(pipe).await;
        }
    }
}

async fn last_words(mut pipe: pipe::Receiver) -> io::Result<()> {
    let mut buffer = vec![0; READ];
    let mut total = 0;
    while total < LAST_WORDS {
        match pipe.read(&mut buffer).await? {
            0 => return Ok(()),
            count => total += count,
        }
    }
    Ok(())
}

/// Sends the output of a terminal, until no process has it open, the client has disconnected, or
/// the session's program has `exited` and everything is read: background processes may keep the
/// terminal open, as under sshd.
pub(super) async fn screen(
    outlet: &Outlet,
    live: &Live,
    master: &Master,
    exited: &CancellationToken,
    recorder: Option<&Recorder>,
) -> io::Result<()> {
    let mut buffer = vec![0; READ];
    loop {
        let silence = async {
            exited.cancelled().await;
            tokio::time::sleep(LAST_SHOW).await;
        };
        let count = tokio::select! {
            biased;
            () = outlet.closed.cancelled() => return Ok(()),
            read = master.read(&mut buffer) => read?,
            () = silence => return Ok(()),
        };
        let bytes = Bytes::copy_from_slice(&buffer[..count]);
        if let Some(recorder) = recorder {
            recorder.shown(&bytes).await;
        }
        if count == 0 || !send(outlet, live, bytes, Stream::Stdout).await {
            return Ok(());
        }
    }
}

/// `false` when the client has left.
async fn send(outlet: &Outlet, live: &Live, bytes: Bytes, stream: Stream) -> bool {
    let count = bytes.len();
    let sent = match stream {
        Stream::Stdout => outlet.send(bytes).await,
        Stream::Stderr => outlet.send_stderr(bytes).await,
    };
    if sent {
        live.count_out(count);
    }
    sent
}
