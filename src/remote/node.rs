//! The node's end of the channel to the pod: stdin and stdout of this process, and its log.
//!
//! Only the threads here can block on a broken connection; the process does not wait for them.

use std::io::{BufRead, BufReader, PipeReader, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::HEARTBEAT;
use super::wire::{Ended, Task, ToNode, ToPod};
use crate::telemetry::logs;
use linux::stdio;

/// Lines that wait to be sent.
const LINES: usize = 1024;

/// Longest wait for the first line of the pod.
const TASK_TIME: Duration = Duration::from_secs(60);

/// How long the last words may take.
const FAREWELL_TIME: Duration = Duration::from_secs(10);

/// Pause of the log while too many lines wait.
const LOG_PAUSE: Duration = Duration::from_millis(10);

/// The pod, as the node sees it.
pub struct Pod {
    lines: mpsc::Sender<ToPod>,
    urls: tokio::sync::Mutex<mpsc::Receiver<Result<String, String>>>,
    taken: Arc<Notify>,
    /// Cancelled when lost the connection to the pod, or nothing was heard of it for too long.
    pub lost: CancellationToken,
    threads: Mutex<Option<Threads>>,
}

/// What goes on beside the work.
struct Threads {
    log: JoinHandle<()>,
    writer: JoinHandle<()>,
    heartbeat: AbortOnDropHandle<()>,
}

/// When the pod was heard of last.
#[derive(Debug)]
struct Heard(Mutex<Instant>);

impl Heard {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn ago(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// What the thread that reads gives on.
struct Inputs {
    task: Option<oneshot::Sender<Box<Task>>>,
    urls: mpsc::Sender<Result<String, String>>,
    heard: Arc<Heard>,
    taken: Arc<Notify>,
    lost: CancellationToken,
}

impl Pod {
    /// Takes over stdin, stdout and stderr, and waits for the task.
    pub async fn meet() -> anyhow::Result<(Self, Box<Task>)> {
        let (lines, queue) = mpsc::channel(LINES);
        let (task_in, task) = oneshot::channel();
        let (urls_in, urls) = mpsc::channel(1);
        let heard = Arc::new(Heard(Mutex::new(Instant::now())));
        let (taken, lost) = (Arc::new(Notify::new()), CancellationToken::new());
        let inputs = Inputs {
            task: Some(task_in),
            urls: urls_in,
            heard: heard.clone(),
            taken: taken.clone(),
            lost: lost.clone(),
        };
        std::thread::spawn(move || inputs.read());
        let writer = std::thread::spawn({
            let lost = lost.clone();
            move || write(queue, &lost)
        });
        let log = std::thread::spawn({
            let (output, lines, lost) = (stdio::capture_stderr()?, lines.clone(), lost.clone());
            move || follow_log(output, &lines, &lost)
        });
        let task = tokio::time::timeout(TASK_TIME, task).await??;
        let heartbeat = tokio::spawn(beat(lines.clone(), heard, task.patience, lost.clone()));
        let pod = Self {
            lines,
            urls: tokio::sync::Mutex::new(urls),
            taken,
            lost,
            threads: Mutex::new(Some(Threads {
                log,
                writer,
                heartbeat: AbortOnDropHandle::new(heartbeat),
            })),
        };
        Ok((pod, task))
    }

    /// Says something to the pod, if it is there.
    pub async fn say(&self, event: ToPod) {
        let _ = self.lost.run_until_cancelled(self.lines.send(event)).await;
    }

    /// Offers something, and waits until the pod has it; false if that never comes.
    pub async fn hand_over(&self, offer: ToPod) -> bool {
        self.say(offer).await;
        self.lost.run_until_cancelled(self.taken.notified()).await.is_some()
    }

    /// A URL of the image that works now.
    pub async fn url(&self) -> Result<String, String> {
        let mut urls = self.urls.lock().await;
        self.say(ToPod::NeedUrl).await;
        let answer = self.lost.run_until_cancelled(urls.recv()).await.flatten();
        answer.unwrap_or_else(|| Err("lost the connection to the pod".into()))
    }

    /// Says how the work ended, after all log lines. Nothing is logged any more.
    pub async fn part(&self, ended: Ended) {
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Threads { log, writer, heartbeat }) = threads else { return };
        drop(heartbeat);
        let farewell = async {
            let _ = tokio::task::spawn_blocking(logs::flush).await;
            if stdio::silence_stderr().is_ok() {
                join(log).await;
            }
            self.say(ToPod::Ended(ended)).await;
            if !self.lost.is_cancelled() {
                join(writer).await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL_TIME, farewell).await;
    }
}

async fn join(thread: JoinHandle<()>) {
    while !thread.is_finished() {
        tokio::time::sleep(LOG_PAUSE).await;
    }
}

impl Inputs {
    fn read(mut self) {
        for line in BufReader::new(std::io::stdin()).split(b'\n') {
            let Ok(line) = line else { break };
            self.heard.now();
            match serde_json::from_slice(&line) {
                Ok(ToNode::Heartbeat) => {}
                Ok(ToNode::Task(task)) => {
                    let _ = self.task.take().map(|waits| waits.send(task));
                }
                // One answer to one question: there is room.
                Ok(ToNode::Url(url)) => drop(self.urls.try_send(url)),
                Ok(ToNode::Taken) => self.taken.notify_one(),
                Err(error) => tracing::warn!(%error, "the pod sent an unknown message"),
            }
        }
        self.lost.cancel();
    }
}

/// Sends heartbeats, and looks whether there are any.
async fn beat(
    lines: mpsc::Sender<ToPod>,
    heard: Arc<Heard>,
    patience: Duration,
    lost: CancellationToken,
) {
    let mut interval = tokio::time::interval(HEARTBEAT);
    loop {
        interval.tick().await;
        if heard.ago() > patience {
            tracing::warn!(seconds = patience.as_secs(), "the pod sent nothing for too long");
            return lost.cancel();
        }
        // Lines that wait are as good.
        let _ = lines.try_send(ToPod::Heartbeat);
    }
}

/// Ends after the last words.
fn write(mut queue: mpsc::Receiver<ToPod>, lost: &CancellationToken) {
    let mut stdout = std::io::stdout().lock();
    let mut ended = false;
    while !ended && let Some(event) = queue.blocking_recv() {
        ended = matches!(event, ToPod::Ended(_));
        let mut line = serde_json::to_vec(&event).expect("plain data can be written as JSON");
        line.push(b'\n');
        if stdout.write_all(&line).and_then(|()| stdout.flush()).is_err() {
            return lost.cancel();
        }
    }
}

/// Reads the log as long as this process writes one. Without a pod it is thrown away: whoever logs
/// must not wait for a connection that is gone.
#[allow(clippy::disallowed_methods, reason = "a thread of its own sleeps")]
fn follow_log(output: PipeReader, lines: &mpsc::Sender<ToPod>, lost: &CancellationToken) {
    for line in BufReader::new(output).split(b'\n') {
        let Ok(line) = line else { return };
        let text = || serde_json::json!({"message": String::from_utf8_lossy(&line)});
        let mut event = ToPod::Log(serde_json::from_slice(&line).unwrap_or_else(|_| text()));
        while !lost.is_cancelled() {
            match lines.try_send(event) {
                Err(mpsc::error::TrySendError::Full(unsent)) => event = unsent,
                _ => break,
            }
            std::thread::sleep(LOG_PAUSE);
        }
    }
}
