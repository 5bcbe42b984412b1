//! The pod's end of the channel to the program on a node: receives events, sends requests, and both
//! sides send heartbeats.

use std::time::Duration;

use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::HEARTBEAT;
use super::client::{Answer, Connection};
use super::error::Error;
use super::wire::{ToNode, ToPod};

/// Events that wait to be looked at; there are few in all.
const EVENTS: usize = 64;

/// The longest line that is believed to be one.
const LONGEST_LINE: usize = 16 << 20;

/// A program that runs on a node. It ends when this is dropped, because its stdin does.
pub struct NodeChannel {
    events: mpsc::Receiver<Result<ToPod, Error>>,
    requests: Option<mpsc::Sender<ToNode>>,
    _talk: AbortOnDropHandle<()>,
}

impl NodeChannel {
    /// Starts `command`, which is given up when it was silent for `patience`.
    pub async fn start(
        connection: Connection,
        command: &str,
        patience: Duration,
    ) -> Result<Self, Error> {
        let channel = connection.exec("start the program", command).await?;
        let (events_in, events) = mpsc::channel(EVENTS);
        let (requests, requests_out) = mpsc::channel(EVENTS);
        let (read, write) = channel.split();
        let mut talk = Talk {
            read,
            write,
            events: events_in,
            requests: requests_out,
            line: Vec::new(),
            said: Answer::default(),
            patience,
            connection,
        };
        let talk = tokio::spawn(async move {
            let end = talk.run().await;
            // Nobody may be interested any more.
            let _ = talk.events.send(Err(end)).await;
        });
        Ok(Self { events, requests: Some(requests), _talk: AbortOnDropHandle::new(talk) })
    }

    /// What the node says next; heartbeats and log lines are dealt with.
    pub async fn next(&mut self) -> Result<ToPod, Error> {
        self.events.recv().await.unwrap_or(Err(Error::Cancelled))
    }

    /// Says something to the node. That it arrives is not sure.
    pub async fn say(&self, request: ToNode) {
        if let Some(requests) = &self.requests {
            // After the end of the talk, `next` says why it ended.
            let _ = requests.send(request).await;
        }
    }

    /// Asks the program to end: it does when its stdin has.
    pub fn hang_up(&mut self) {
        self.requests = None;
    }
}

struct Talk {
    read: ChannelReadHalf,
    write: ChannelWriteHalf<Msg>,
    events: mpsc::Sender<Result<ToPod, Error>>,
    requests: mpsc::Receiver<ToNode>,
    /// A line that has not ended yet.
    line: Vec<u8>,
    /// What the program, or the shell before it, says on stderr.
    said: Answer,
    patience: Duration,
    connection: Connection,
}

impl Talk {
    async fn run(&mut self) -> Error {
        let mut heartbeat = interval(HEARTBEAT);
        let mut heard = Instant::now();
        let mut open = true;
        loop {
            let done = tokio::select! {
                message = self.read.wait() => {
                    heard = Instant::now();
                    self.take(message).await
                }
                request = self.requests.recv(), if open => match request {
                    Some(request) => self.send(&request).await,
                    None => {
                        open = false;
                        self.in_time(self.write.eof()).await
                    }
                },
                _ = heartbeat.tick() => match heard.elapsed() > self.patience {
                    true => Err(self.silent()),
                    false if open => self.send(&ToNode::Heartbeat).await,
                    false => Ok(()),
                },
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    async fn send(&self, request: &ToNode) -> Result<(), Error> {
        let mut line = serde_json::to_vec(request).expect("plain data can be written as JSON");
        line.push(b'\n');
        self.in_time(self.write.data_bytes(line)).await
    }

    async fn in_time(
        &self,
        sending: impl Future<Output = Result<(), russh::Error>>,
    ) -> Result<(), Error> {
        match timeout(self.patience, sending).await {
            Ok(sent) => sent.map_err(|source| self.connection.failed("reach the program", source)),
            Err(_) => Err(self.silent()),
        }
    }

    fn silent(&self) -> Error {
        Error::Silent { node: self.connection.node.clone(), after: self.patience }
    }

    async fn take(&mut self, message: Option<ChannelMsg>) -> Result<(), Error> {
        match message {
            Some(ChannelMsg::Data { data }) => {
                for byte in data.iter() {
                    match byte {
                        b'\n' => {
                            let line = std::mem::take(&mut self.line);
                            self.line(&line).await;
                        }
                        _ if self.line.len() < LONGEST_LINE => self.line.push(*byte),
                        _ => {}
                    }
                }
                Ok(())
            }
            Some(message) => {
                self.said.take(message);
                Ok(())
            }
            None => {
                Err(Error::Ended { node: self.connection.node.clone(), stderr: self.said.stderr() })
            }
        }
    }

    async fn line(&self, line: &[u8]) {
        match serde_json::from_slice(line) {
            Ok(ToPod::Heartbeat) => {}
            Ok(ToPod::Log(event)) => log(&self.connection.node, &event),
            Ok(event) => drop(self.events.send(Ok(event)).await),
            // A login script of root's that prints something.
            Err(_) => {
                let line = String::from_utf8_lossy(line);
                tracing::debug!(
                    node = self.connection.node,
                    "the node reports: {}",
                    line.trim_end()
                );
            }
        }
    }
}

/// Puts a line of the node's log into ours, at its level.
fn log(node: &str, event: &Value) {
    let text = |name: &str| event[name].as_str().unwrap_or_default();
    let mut line = text("message").to_owned();
    let own = ["timestamp", "level", "message", "target"];
    for (name, value) in event.as_object().into_iter().flatten() {
        if !own.contains(&name.as_str()) {
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            line += &format!(" {name}={shown}");
        }
    }
    match text("level") {
        "ERROR" => tracing::error!(node, "{line}"),
        "WARN" => tracing::warn!(node, "{line}"),
        "DEBUG" | "TRACE" => tracing::debug!(node, "{line}"),
        _ => tracing::info!(node, "{line}"),
    }
}
