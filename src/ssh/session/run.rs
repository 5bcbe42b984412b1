//! The task that owns a running program.
//!
//! A program is never killed because its channel or connection closes: CFS closes its connection as
//! soon as its request is accepted. But a terminal hangs up.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh::server::Handle;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::super::connection::Outlet;
use super::super::flow::Inbox;
use super::super::registry::{Activity, Live};
use super::super::signals;
use super::pump::{self, Stream};
use super::record::Recorder;
use super::stdio::Stdio;
use crate::jail::Child;
use linux::Signal;
use linux::pty::{Master, Window};

/// How long a program may take to end after a signal, before its channel is closed anyway.
const HANGUP: Duration = Duration::from_secs(1);
/// How long after the end of its output a program that ends may take to do so.
const ENDING: Duration = Duration::from_millis(200);
/// How long a notice may wait for the client's window.
const NOTICE: Duration = Duration::from_millis(500);
/// How long what a client typed before it left may take to reach a program.
const LAST_INPUT: Duration = Duration::from_secs(1);

/// What a client sees of a session whose end is not its program's.
const LOST: &str =
    "The process that starts sessions has ended, and so has this session. Log in again.\n";

pub(super) struct Running {
    pub child: Child,
    pub stdio: Stdio,
    pub inbox: Inbox,
    pub outlet: Arc<Outlet>,
    pub handle: Handle,
    pub live: Arc<Live>,
    pub notices: mpsc::Receiver<Bytes>,
    pub window: watch::Receiver<Window>,
    pub signals: mpsc::Receiver<Signal>,
    pub recorder: Option<Arc<Recorder>>,
}

/// The parts that continue while the streams are pumped.
struct Controller {
    child: Child,
    live: Arc<Live>,
    outlet: Arc<Outlet>,
    notices: mpsc::Receiver<Bytes>,
    window: watch::Receiver<Window>,
    signals: mpsc::Receiver<Signal>,
    recorder: Option<Arc<Recorder>>,
}

impl Running {
    pub(super) async fn run(self) {
        let Self { child, stdio, inbox, outlet, handle, live, notices, window, signals, recorder } =
            self;
        let identity = &live.identity;
        tracing::info!(
            session = live.id, connection = identity.connection, peer = %identity.peer,
            activity = ?identity.activity, pty = identity.pty, "session opened"
        );
        let gone = tokio::spawn(forget(Arc::clone(&outlet), Arc::clone(&live)));
        let controller = Controller {
            child,
            live: Arc::clone(&live),
            outlet: Arc::clone(&outlet),
            notices,
            window,
            signals,
            recorder: recorder.clone(),
        };
        let status = match stdio {
            Stdio::Pipes { stdin, stdout, stderr } => {
                let input = feed(inbox.clone(), Arc::clone(&live), stdin);
                let sent = CancellationToken::new();
                // What runs on in the background may keep the streams open: the status does not wait.
                let program = async {
                    let status = controller.run(None).await;
                    send_status(&outlet, &handle, status.as_ref().ok()).await;
                    sent.cancel();
                    status
                };
                let streams = async {
                    let (out, err) = tokio::join!(
                        pump::output(&outlet, &live, stdout, Stream::Stdout),
                        pump::output(&outlet, &live, stderr, Stream::Stderr),
                    );
                    complain(&live, out.and(err));
                    // Some clients close at the EOF: wait until the status of a program that is
                    // ending is sent.
                    let _ = tokio::time::timeout(ENDING, sent.cancelled()).await;
                    outlet.eof().await;
                };
                let (status, ()) = tokio::join!(program, streams);
                input.abort();
                status
            }
            Stdio::Terminal(master) => {
                let status = on_terminal(controller, &outlet, &live, &inbox, master).await;
                outlet.eof().await;
                send_status(&outlet, &handle, status.as_ref().ok()).await;
                status
            }
        };
        if let Some(recorder) = recorder {
            recorder.end().await;
        }
        inbox.discard();
        outlet.close().await;
        gone.abort();
        outlet.connection.shared.registry.leave(&live);
        report(&live, &status);
    }
}

fn feed(
    inbox: Inbox,
    live: Arc<Live>,
    stdin: tokio::net::unix::pipe::Sender,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let result = pump::input(&inbox, &live, stdin).await;
        complain(&live, result);
    })
}

async fn on_terminal(
    controller: Controller,
    outlet: &Arc<Outlet>,
    live: &Arc<Live>,
    inbox: &Inbox,
    master: Master,
) -> io::Result<ExitStatus> {
    let mut typing = tokio::spawn({
        let (inbox, live, master) = (inbox.clone(), Arc::clone(live), master.clone());
        async move {
            // An error is the terminal's end, which the other direction sees as well.
            let _ = pump::typing(&inbox, &live, master).await;
        }
    });
    if live.identity.activity == Activity::Shell {
        let motd = outlet.connection.shared.config.motd.clone();
        // It looks at the image, which may be slow.
        if let Ok(text) = tokio::task::spawn_blocking(move || motd.text()).await {
            outlet.send(crlf(&text)).await;
        }
    }
    let exited = CancellationToken::new();
    let recorder = controller.recorder.clone();
    let show = {
        let (master, exited) = (master.clone(), exited.clone());
        async move {
            let result = pump::screen(outlet, live, &master, &exited, recorder.as_deref()).await;
            if outlet.closed.is_cancelled() {
                let _ = tokio::time::timeout(LAST_INPUT, &mut typing).await;
            }
            typing.abort();
            result
        }
    };
    let program = async {
        let status = controller.run(Some(master)).await;
        exited.cancel();
        status
    };
    let (status, shown) = tokio::join!(program, show);
    complain(live, shown);
    status
}

impl Controller {
    /// Passes notices, signals and window sizes on until the program has ended.
    async fn run(mut self, mut terminal: Option<Master>) -> io::Result<ExitStatus> {
        let has_terminal = terminal.is_some();
        loop {
            tokio::select! {
                biased;
                Some(text) = self.notices.recv() => self.notice(text).await,
                status = self.child.wait() => {
                    if status.is_err() {
                        self.notice(LOST.into()).await;
                    }
                    return status;
                }
                Some(signal) = self.signals.recv() => self.signal(signal),
                Ok(()) = self.window.changed() => {
                    let window = *self.window.borrow_and_update();
                    if let Some(recorder) = &self.recorder {
                        recorder.resized(window).await;
                    }
                    if let Some(Err(error)) = terminal.as_ref().map(|m| m.resize(window)) {
                        tracing::debug!(session = self.live.id, %error, "cannot resize a terminal");
                    }
                }
                () = self.live.hangup.cancelled() => break,
                () = self.outlet.closed.cancelled(), if has_terminal => break,
            }
        }
        self.hang_up(&mut terminal).await
    }

    /// The server ends the session, or the client left its terminal.
    async fn hang_up(&mut self, terminal: &mut Option<Master>) -> io::Result<ExitStatus> {
        if self.live.hangup.is_cancelled() {
            self.signal(Signal::SIGHUP);
            // A stopped program gets the signal when it continues.
            self.signal(Signal::SIGCONT);
            if let Ok(status) = tokio::time::timeout(HANGUP, self.child.wait()).await {
                return status;
            }
            // The program continues without a client; the jail ends it at the end of the job.
            self.outlet.close().await;
        }
        // Given up one moment after the screen's, so that what was typed last still arrives.
        if terminal.is_some() {
            let _ = tokio::time::timeout(LAST_INPUT, self.child.wait()).await;
        }
        drop(terminal.take());
        self.child.wait().await
    }

    async fn notice(&self, text: Bytes) {
        let showing = async {
            match self.live.identity.pty {
                true => self.outlet.send(crlf(&String::from_utf8_lossy(&text))).await,
                false => self.outlet.send_stderr(text).await,
            }
        };
        // A user whose window is full sees it no more; the signals and the end behind it matter more.
        let _ = tokio::time::timeout(NOTICE, showing).await;
    }

    fn signal(&self, signal: Signal) {
        if let Err(error) = self.child.signal(signal) {
            tracing::debug!(session = self.live.id, %signal, %error, "cannot signal a session");
        }
    }
}

/// Informs the registry when the client has left a program that continues.
async fn forget(outlet: Arc<Outlet>, live: Arc<Live>) {
    outlet.closed.cancelled().await;
    outlet.connection.shared.registry.disconnected(&live);
}

/// Reports how the program ended.
async fn send_status(outlet: &Outlet, handle: &Handle, status: Option<&ExitStatus>) {
    let id = outlet.write.id();
    match status {
        Some(status) if let Some(code) = status.code() => {
            outlet.control(outlet.write.exit_status(code as u32)).await;
        }
        Some(status) if let Some(number) = status.signal() => {
            let core = status.core_dumped();
            let signal = signals::to_ssh(number);
            let (message, language) = (String::new(), String::new());
            outlet.control(handle.exit_signal_request(id, signal, core, message, language)).await;
        }
        _ => {}
    }
}

fn report(live: &Live, status: &io::Result<ExitStatus>) {
    let info = live.info();
    let end = match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("unknown: {error}"),
    };
    tracing::info!(
        session = info.id,
        connection = info.connection,
        end,
        bytes_in = info.bytes_in,
        bytes_out = info.bytes_out,
        "session closed"
    );
}

fn complain(live: &Live, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(session = live.id, %error, "a stream of a session failed");
    }
}

/// A terminal in the hands of a program may be raw: lines need their carriage returns.
fn crlf(text: &str) -> Bytes {
    text.replace("\r\n", "\n").replace('\n', "\r\n").into()
}
