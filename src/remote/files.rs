//! Takes files from a node; each is checked against the size and md5 that the node reports.

use std::path::Path;

use md5::{Digest, Md5};
use russh::ChannelMsg;
use tokio::fs::File as LocalFile;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::client::{Answer, Connection, SILENCE};
use super::error::Error;
use super::quoted;
use super::wire::File;
use crate::telemetry::progress::Meter;

impl Connection {
    /// Copies a file of the node to `path`, which is replaced. Removed again unless this succeeds.
    pub async fn take(
        &self,
        file: &File,
        path: &Path,
        meter: &Meter,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        let copied = cancel.run_until_cancelled(self.copy(file, path, meter)).await;
        let result = copied.unwrap_or(Err(Error::Cancelled));
        if result.is_err() {
            // It may not be there at all.
            let _ = tokio::fs::remove_file(path).await;
        }
        result
    }

    async fn copy(&self, file: &File, path: &Path, meter: &Meter) -> Result<(), Error> {
        const WHAT: &str = "read the results";
        let write = |source| Error::Write { path: path.into(), source };
        let mut local = LocalFile::create(path).await.map_err(write)?;
        let (mut md5, mut size) = (Md5::new(), 0);
        let mut answer = Answer::default();
        let command = format!("cat {}", quoted(&file.path.to_string_lossy()));
        let mut channel = self.exec(WHAT, &command).await?;
        let mut next =
            async || self.in_time(WHAT, SILENCE, async { Ok(channel.wait().await) }).await;
        while let Some(message) = next().await? {
            let ChannelMsg::Data { data } = message else {
                answer.take(message);
                continue;
            };
            md5.update(&data);
            size += data.len() as u64;
            meter.add(data.len() as u64);
            local.write_all(&data).await.map_err(write)?;
        }
        answer.check(WHAT, &self.node)?;
        local.flush().await.map_err(write)?;
        let found = hex::encode(md5.finalize());
        if (size, found.as_str()) != (file.size, file.md5.as_str()) {
            let expected = format!("{} and {} bytes", file.md5, file.size);
            return Err(Error::Digest { path: file.path.clone(), found, size, expected });
        }
        Ok(())
    }
}
