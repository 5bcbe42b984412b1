//! A download in parallel ranges, each resumed after an interruption.

use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use reqwest::Response;

use super::Download;
use super::error::Error;
use super::verify::Verifier;
use net::pace;

/// Interruptions of one range after which the download fails, even if each try got some bytes.
const MAX_BREAKS: u32 = 1000;

impl Download<'_> {
    /// Downloads all `size` bytes; `first` is the answer for the first part.
    pub(super) async fn ranges(&self, first: Response, size: u64) -> Result<(), Error> {
        let part_size = self.options.part_size.max(1);
        let parts: Vec<u64> = (0..size.div_ceil(part_size))
            .map(|part| part_size.min(size - part * part_size))
            .collect();
        let verifier = self.verifier(&parts)?;
        let kept = self.kept(size, part_size);
        for (part, len) in parts.iter().enumerate().take(kept) {
            verifier.written(part, *len);
            self.output.meter.add(*len);
        }
        let mut first = Some(first).filter(|_| kept == 0);
        let downloads = (kept..parts.len()).map(|part| {
            self.part(part, part as u64 * part_size, parts[part], first.take(), &verifier)
        });
        // In order: see `kept`.
        stream::iter(downloads)
            .buffered(self.options.concurrency.max(1))
            .try_collect::<()>()
            .await?;
        verifier.finish().await
    }

    /// The parts that an earlier download has completed: no part is begun before all but the last
    /// `concurrency` of those before it are complete, so that the file's length shows how far it
    /// is.
    fn kept(&self, size: u64, part_size: u64) -> usize {
        if self.output.there > size {
            return 0;
        }
        let begun = self.output.there.div_ceil(part_size) as usize;
        begun.saturating_sub(self.options.concurrency.max(1))
    }

    /// Downloads one range. `open` is its response if it was already requested.
    async fn part(
        &self,
        part: usize,
        start: u64,
        len: u64,
        mut open: Option<Response>,
        verifier: &Verifier,
    ) -> Result<(), Error> {
        let end = start + len;
        let mut at = start;
        let mut tries = self.options.policy.tries();
        let mut breaks = 0;
        while at < end {
            let (before, begun) = (at, Instant::now());
            let copied = async {
                let response = match open.take() {
                    Some(response) => response,
                    None => self.link.range(at, end).await?,
                };
                self.output
                    .copy(&self.link, response, &mut at, end, |len| verifier.written(part, len))
                    .await
            };
            let copied = copied.await;
            let (came, took) = (at - before, begun.elapsed());
            let got_further = came > 0 && pace::is_enough(came, took);
            if got_further {
                tries.progressed();
            }
            match copied {
                Ok(()) if at == end => {}
                // Short without an interruption: the server sent less than requested.
                Ok(()) if got_further => {}
                Ok(()) => {
                    let error = self.too_little(at, came, took);
                    tries.failed("download", true, error).await?;
                }
                Err(error) if error.is_transient() && got_further && breaks < MAX_BREAKS => {
                    breaks += 1;
                    tracing::debug!(at, end, "the transfer of a range was interrupted, resuming");
                }
                Err(error) => {
                    let transient = error.is_transient() && breaks < MAX_BREAKS;
                    tries.failed("download", transient, error).await?;
                }
            }
        }
        Ok(())
    }

    fn too_little(&self, at: u64, came: u64, window: Duration) -> Error {
        let object = self.link.name();
        if came > 0 {
            let source = pace::Slow { rate: pace::rate(came, window), window };
            return Error::Slow { object, source };
        }
        Error::Answer { object, expected: format!("bytes from {at}"), found: "none".to_owned() }
    }
}
