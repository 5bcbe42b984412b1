//! A download from a server without range support: one stream, which starts over after an
//! interruption.

use reqwest::Response;

use super::Download;
use super::error::Error;

impl Download<'_> {
    /// Downloads all of it; gives its size.
    pub(super) async fn whole(&self, first: Response) -> Result<u64, Error> {
        tracing::warn!(
            object = self.link.name(),
            "the server does not support ranges: using one stream, which starts over when the \
             connection breaks"
        );
        let mut tries = self.options.policy.tries();
        let mut open = Some(first);
        loop {
            match self.whole_once(open.take()).await {
                Ok(size) => return Ok(size),
                Err(error) => {
                    let transient = error.is_transient();
                    tries.failed("download", transient, error).await?;
                    self.output.meter.set(0);
                }
            }
        }
    }

    async fn whole_once(&self, open: Option<Response>) -> Result<u64, Error> {
        let response = match open {
            Some(response) => response,
            None => self.link.again().await?,
        };
        // The partial file of an earlier try is not resumed, and takes the space that this one
        // needs.
        self.empty()?;
        let announced = response.content_length();
        if let Some(size) = announced {
            self.check_size(size)?;
            self.output.reserve(size)?;
        }
        // Not known: one part without an end.
        let end = announced.or(self.options.size).unwrap_or(u64::MAX);
        let verifier = self.verifier(&[end])?;
        let mut at = 0;
        self.output
            .copy(&self.link, response, &mut at, end, |len| verifier.written(0, len))
            .await?;
        self.check_size(at)?;
        verifier.finish().await?;
        Ok(at)
    }

    fn empty(&self) -> Result<(), Error> {
        let cut = self.output.file.set_len(0);
        cut.map_err(|source| Error::Write { path: self.output.path.clone(), source })
    }
}
