//! Recordings of terminals as asciicast v2 (docs.asciinema.org/manual/asciicast/v2): output with
//! its time, no input. Used by the task of a session.

use std::io;
use std::path::Path;
use std::time::{Instant, SystemTime};

use serde_json::json;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::sync::Mutex;

use super::super::registry::Live;
use linux::pty::Window;

/// One session's recording. A write that fails ends the recording, not the session.
#[derive(Debug)]
pub(super) struct Recorder {
    begun: Instant,
    session: u64,
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// The beginning of a character whose end has not been shown yet.
    partial: Vec<u8>,
}

impl Recorder {
    /// Creates a new file in `directory`, readable only by root.
    pub(super) async fn begin(
        directory: &Path,
        live: &Live,
        term: &str,
        window: Window,
    ) -> io::Result<Recorder> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let path = directory.join(format!("{}-{}.cast", since.as_millis(), live.id));
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).await?;
        let identity = &live.identity;
        let header = json!({
            "version": 2, "width": window.columns, "height": window.rows,
            "timestamp": since.as_secs(), "env": {"TERM": term},
            "title": format!("session {} of {} from {}", live.id, identity.key, identity.peer),
        });
        file.write_all(format!("{header}\n").as_bytes()).await?;
        let open = Mutex::new(Some(Open { file, partial: Vec::new() }));
        Ok(Recorder { begun: Instant::now(), session: live.id, open })
    }

    pub(super) async fn shown(&self, bytes: &[u8]) {
        let mut open = self.open.lock().await;
        let Some(Open { partial, .. }) = open.as_mut() else { return };
        partial.extend_from_slice(bytes);
        let text = take_text(partial);
        if !text.is_empty() {
            self.event(&mut open, "o", &text).await;
        }
    }

    pub(super) async fn resized(&self, window: Window) {
        let size = format!("{}x{}", window.columns, window.rows);
        self.event(&mut *self.open.lock().await, "r", &size).await;
    }

    /// Waits until everything is in the file.
    pub(super) async fn end(&self) {
        if let Some(mut open) = self.open.lock().await.take()
            && let Err(error) = open.file.flush().await
        {
            self.complain(&error);
        }
    }

    async fn event(&self, open: &mut Option<Open>, kind: &str, data: &str) {
        let Some(Open { file, .. }) = open.as_mut() else { return };
        let line = format!("{}\n", json!([self.begun.elapsed().as_secs_f64(), kind, data]));
        if let Err(error) = file.write_all(line.as_bytes()).await {
            self.complain(&error);
            *open = None;
        }
    }

    fn complain(&self, error: &io::Error) {
        tracing::error!(session = self.session, %error, "cannot write the recording of a session, \
            it ends here");
    }
}

/// Takes whole characters; invalid bytes become U+FFFD, an incomplete character stays.
fn take_text(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut taken = 0;
    loop {
        match std::str::from_utf8(&bytes[taken..]) {
            Ok(rest) => {
                text.push_str(rest);
                taken = bytes.len();
                break;
            }
            Err(error) => {
                let valid = taken + error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&bytes[taken..valid]));
                taken = valid;
                let Some(bad) = error.error_len() else { break };
                text.push(char::REPLACEMENT_CHARACTER);
                taken += bad;
            }
        }
    }
    bytes.drain(..taken);
    text
}

#[cfg(test)]
mod tests {
    use super::take_text;

    #[test]
    fn characters_are_not_torn() {
        let mut bytes = b"a\xff\xc3".to_vec();
        assert_eq!(take_text(&mut bytes), "a\u{fffd}");
        bytes.extend_from_slice(b"\xa4b");
        assert_eq!(take_text(&mut bytes), "\u{e4}b");
        assert_eq!(bytes, b"");
    }
}
