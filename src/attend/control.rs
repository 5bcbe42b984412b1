//! The control socket of a job: sends the current sessions to each client, again and again. The command
//! `who` connects to it.
//!
//! It is in the agent's directory, which only root can enter; with namespaces, sessions do not see
//! it. Each message is a line of JSON; nothing is read from the client.

use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use crate::ssh::{self, SessionInfo};
use crate::workspace::Layout;
use linux::unix;

/// Time between two answers.
const INTERVAL: Duration = Duration::from_secs(1);

/// Most bytes of an answer that is read: commands may be long, but this program writes no more.
const MAX_ANSWER: usize = 16 << 20;

/// Serves `server`'s sessions until the handle is dropped.
pub(crate) fn serve(layout: &Layout, server: ssh::Handle) -> anyhow::Result<AbortOnDropHandle<()>> {
    let path = layout.control();
    let listener = unix::listen_private(&path)
        .and_then(UnixListener::from_std)
        .with_context(|| format!("cannot listen at {}", path.display()))?;
    Ok(AbortOnDropHandle::new(tokio::spawn(accept(listener, server))))
}

async fn accept(listener: UnixListener, server: ssh::Handle) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(send_sessions(stream, server.clone()))),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection to the control socket");
                tokio::time::sleep(INTERVAL).await;
            }
        }
    }
}

/// Ends when the other side does.
async fn send_sessions(mut stream: UnixStream, server: ssh::Handle) {
    loop {
        let Ok(mut line) = serde_json::to_string(&server.sessions()) else { return };
        line.push('\n');
        if stream.write_all(line.as_bytes()).await.is_err() {
            return;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The sessions of a running job, as they change.
pub struct Watcher(BufReader<OwnedReadHalf>);

impl Watcher {
    /// Connects to the job whose directory this is.
    pub fn connect(layout: &Layout) -> anyhow::Result<Self> {
        let path = layout.control();
        let stream = unix::connect_private(&path)
            .and_then(UnixStream::from_std)
            .with_context(|| format!("no job with sessions at {}", layout.parent().display()))?;
        Ok(Self(BufReader::new(stream.into_split().0)))
    }

    /// The next state; `None` when the job lets nobody work any more.
    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<SessionInfo>>> {
        let mut line = Vec::new();
        let mut bounded = tokio::io::AsyncReadExt::take(&mut self.0, MAX_ANSWER as u64);
        // A reset is an end as well: the agent may have been killed.
        let _ = bounded.read_until(b'\n', &mut line).await;
        match line.is_empty() {
            true => Ok(None),
            false => Ok(Some(serde_json::from_slice(&line).context(
                "the response is not from a \
                job",
            )?)),
        }
    }
}
