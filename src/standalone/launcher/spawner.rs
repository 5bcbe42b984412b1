//! A thread that starts all children.
//!
//! The kernel's parent-death signal fires when the *thread* that forked ends, and tokio's threads
//! come and go; this one lives as long as the launcher.

use std::io;
use std::sync::mpsc;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

type Order = (Command, oneshot::Sender<io::Result<Child>>);

#[derive(Debug)]
pub struct Spawner {
    orders: mpsc::SyncSender<Order>,
}

impl Spawner {
    /// Starts the thread. Called inside a tokio runtime, which then reaps the children.
    pub fn new() -> io::Result<Self> {
        let (orders, inbox) = mpsc::sync_channel::<Order>(16);
        let runtime = Handle::current();
        std::thread::Builder::new().name("job-spawner".into()).spawn(move || {
            let _runtime = runtime.enter();
            for (mut command, reply) in inbox {
                // If the caller is gone, no task watches the child: dropping its handle kills it.
                if let Err(Ok(mut child)) = reply.send(command.spawn()) {
                    let _ = child.start_kill();
                }
            }
        })?;
        Ok(Self { orders })
    }

    pub async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (reply, answer) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts jobs has ended");
        self.orders.try_send((command, reply)).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => io::Error::other("too many jobs start at once"),
            mpsc::TrySendError::Disconnected(_) => gone(),
        })?;
        answer.await.map_err(|_| gone())?
    }
}
