//! Downloads of images: parallel ranges, resumed after interruptions, with the md5 verified during
//! the transfer.
//!
//! Everything is read through presigned URLs, so a `DOWNLOAD_URL` and an object of our own use the
//! same code. The etag of the first response is pinned: an object that changes during the download
//! is an error, never a mix of both.

mod answer;
mod error;
mod link;
mod output;
mod ranges;
#[cfg(test)]
mod tests;
mod verify;
mod whole;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use self::error::Error;
use self::link::{First, Link};
use self::output::Output;
use net::Policy;
use progress::Progress;

/// Why a source has no URL: the error of its lookup.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Gives URLs from which one object can be read.
#[async_trait]
pub trait Source: Send + Sync {
    /// A URL that works now. Asked at the start, and again when the last one was refused (401, 403,
    /// 410): presigned URLs expire.
    async fn url(&self) -> Result<Url, SourceError>;
}

/// A URL that cannot be renewed: a `DOWNLOAD_URL` without a job record.
#[derive(Debug)]
pub struct FixedUrl {
    url: Mutex<Option<Url>>,
}

impl FixedUrl {
    /// What is at `url`.
    pub fn new(url: Url) -> Self {
        Self { url: Mutex::new(Some(url)) }
    }
}

#[async_trait]
impl Source for FixedUrl {
    async fn url(&self) -> Result<Url, SourceError> {
        let mut url = self.url.lock().unwrap_or_else(PoisonError::into_inner);
        url.take().ok_or_else(|| "the store refused the download URL, it may have expired".into())
    }
}

/// The options of a download.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of one ranged GET.
    pub part_size: u64,
    /// Ranges on their way at once. Each holds about 1 MiB in memory.
    pub concurrency: usize,
    /// Expected md5 (hex, any case). `None` or empty: not checked.
    pub md5: Option<String>,
    /// Expected size in bytes.
    pub size: Option<u64>,
    /// Expected etag, from a manifest. `None`: that of the first answer.
    pub etag: Option<String>,
    /// When a range that got nothing, or less than [`net::pace::LEAST`], is tried again; it starts anew with
    /// every try that got more. The pace is judged within `answer`.
    pub policy: Policy,
    /// Go on with what an earlier download of the same object has left in the file, and leave it there
    /// when this one breaks off. Needs an expected md5, the only proof that it is the same object.
    pub resume: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            part_size: 16 << 20,
            concurrency: 4,
            md5: None,
            size: None,
            etag: None,
            policy: Policy::default(),
            resume: false,
        }
    }
}

/// A file that holds the object, as it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Downloaded {
    /// Bytes.
    pub size: u64,
    /// Without quotes, if the server gave one.
    pub etag: Option<String>,
}

/// Downloads an object to `path`, which is replaced; removed again unless this succeeds.
/// `meter` counts bytes.
pub async fn to_file(
    http: &reqwest::Client,
    source: Arc<dyn Source>,
    path: &Path,
    options: &Options,
    meter: &dyn Progress,
    cancel: &CancellationToken,
) -> Result<Downloaded, Error> {
    let resume = options.resume && options.md5.as_ref().is_some_and(|md5| !md5.is_empty());
    let output = Output::create(path, meter, resume, options.policy.answer)?;
    let partial = Partial::new(path);
    let download = Download { link: Link::new(http.clone(), source, options), output, options };
    let downloaded =
        cancel.run_until_cancelled(download.run()).await.unwrap_or(Err(Error::Cancelled));
    let downloaded = match downloaded {
        Err(error) if resume && error.is_interruption() => {
            partial.keep();
            return Err(error);
        }
        downloaded => downloaded?,
    };
    partial.keep();
    Ok(downloaded)
}

/// One download on its way.
struct Download<'a> {
    link: Link,
    output: Output<'a>,
    options: &'a Options,
}

impl Download<'_> {
    async fn run(&self) -> Result<Downloaded, Error> {
        let first = self.link.first(self.options).await?;
        let size = match first {
            First::Empty => {
                self.check_size(0)?;
                self.verifier(&[])?.finish().await?;
                0
            }
            First::Ranged { response, size } => {
                self.check_size(size)?;
                self.output.reserve(size)?;
                self.ranges(response, size).await?;
                size
            }
            First::Whole { response } => self.whole(response).await?,
        };
        Ok(Downloaded { size, etag: self.link.etag().map(str::to_owned) })
    }

    /// The md5 to verify, if one is expected.
    fn expected_md5(&self) -> Option<&str> {
        self.options.md5.as_deref().filter(|md5| !md5.is_empty())
    }

    fn verifier(&self, parts: &[u64]) -> Result<verify::Verifier, Error> {
        verify::Verifier::start(&self.output, parts, self.expected_md5(), self.link.name())
    }

    fn check_size(&self, found: u64) -> Result<(), Error> {
        match self.options.size {
            Some(expected) if expected != found => {
                Err(Error::Size { object: self.link.name(), expected, found })
            }
            _ => Ok(()),
        }
    }
}

/// Removes the file of a download that did not succeed.
struct Partial {
    path: Option<PathBuf>,
}

impl Partial {
    fn new(path: &Path) -> Self {
        Self { path: Some(path.to_owned()) }
    }

    fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let Some(path) = &self.path else { return };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "cannot remove the partial download");
            }
            _ => {}
        }
    }
}
