//! The minimum transfer rate of a body. An idle timeout is not enough: a server that sends a byte
//! now and then is never idle for long.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use tokio::time::{Instant, timeout};

/// Bytes a second that a body must bring on average.
pub const LEAST: u64 = 1024;

/// A body that was too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the transfer rate was {rate} B/s, less than {LEAST} B/s for {} s", .window.as_secs_f32())]
pub struct Slow {
    /// Bytes a second.
    pub rate: u64,
    /// The time that was looked at.
    pub window: Duration,
}

/// Why the next piece of a body did not come.
#[derive(Debug)]
pub enum Error {
    /// The connection broke.
    Broken(reqwest::Error),
    /// Too little came.
    Slow(Slow),
}

/// Watches the pace of one body, window by window. Time that its reader spends elsewhere does not count.
#[derive(Debug)]
pub struct Watch {
    window: Duration,
    /// Of this window.
    left: Duration,
    /// In this window.
    bytes: u64,
}

impl Watch {
    /// Judges each `window` of time.
    pub fn new(window: Duration) -> Self {
        // None at all would be too short for any byte, and for none.
        let window = window.max(Duration::from_millis(1));
        Self { window, left: window, bytes: 0 }
    }

    /// The next piece; `None` at the end of the body.
    pub async fn chunk(&mut self, response: &mut Response) -> Result<Option<Bytes>, Error> {
        loop {
            let asked = Instant::now();
            // A piece that is there is taken, also where no time is left.
            let Ok(chunk) = timeout(self.left, response.chunk()).await else {
                if !is_enough(self.bytes, self.window) {
                    let slow = Slow { rate: rate(self.bytes, self.window), window: self.window };
                    return Err(Error::Slow(slow));
                }
                *self = Self::new(self.window);
                continue;
            };
            self.left = self.left.saturating_sub(asked.elapsed());
            let chunk = chunk.map_err(|error| Error::Broken(error.without_url()))?;
            self.bytes += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
            return Ok(chunk);
        }
    }
}

/// Whether so many bytes in such a time are progress.
pub fn is_enough(bytes: u64, time: Duration) -> bool {
    bytes as f64 >= LEAST as f64 * time.as_secs_f64()
}

/// Whole bytes a second.
pub fn rate(bytes: u64, time: Duration) -> u64 {
    (bytes as f64 / time.as_secs_f64().max(f64::EPSILON)) as u64
}
