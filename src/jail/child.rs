//! The handle of a session's first process for the `ssh` room.

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::init_client::InitClient;
use super::wire::Request;
use linux::Signal;

/// Dropping it leaves the process running: CFS closes its connection before its command has ended.
#[derive(Debug)]
pub struct Child {
    pub(super) id: u64,
    pub(super) init: Arc<InitClient>,
    pub(super) exited: Exited,
}

#[derive(Debug)]
pub(super) enum Exited {
    Waiting(oneshot::Receiver<ExitStatus>),
    Known(ExitStatus),
    Lost,
}

impl Child {
    /// Waits for its end; may be cancelled and called again. An error means that the jail's init
    /// was killed, and with it the status lost.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Exited::Waiting(receiver) = &mut self.exited {
            self.exited = match receiver.await {
                Ok(status) => Exited::Known(status),
                Err(_) => Exited::Lost,
            };
        }
        match self.exited {
            Exited::Known(status) => Ok(status),
            _ => Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                "the process that starts sessions was killed",
            )),
        }
    }

    /// Signals its process group, as sshd does for a client's `signal` request.
    pub fn signal(&self, signal: Signal) -> Result<(), super::Error> {
        self.init.line.send(&Request::Signal { id: self.id, signal: signal as i32 }, &[])
    }
}
