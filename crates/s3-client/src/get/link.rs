//! Access to one object: the current URL, its replacement, and the pinned etag.

use std::sync::{Arc, OnceLock};

use reqwest::Response;
use reqwest::header::{IF_MATCH, RANGE};
use tokio::sync::Mutex;
use url::Url;

use super::answer::{self, Answer};
use super::error::Error;
use super::{Options, Source};
use crate::etag;
use net::pace;
use net::redact;

/// Requests ranges of one object, with its current URL.
pub(super) struct Link {
    http: reqwest::Client,
    source: Arc<dyn Source>,
    current: Mutex<Current>,
    /// What the first answer said; every later one must say the same.
    pinned: OnceLock<Pinned>,
    expected_etag: Option<String>,
    name: OnceLock<String>,
}

struct Current {
    url: Option<Url>,
    /// Counts the URLs the source gave.
    generation: u64,
    /// Whether the URL has ever been answered.
    worked: bool,
}

struct Pinned {
    etag: Option<String>,
    /// Bytes; not known where the server knows no ranges.
    size: Option<u64>,
}

/// The first response, which decides how to continue.
pub(super) enum First {
    Ranged { response: Response, size: u64 },
    Whole { response: Response },
    Empty,
}

impl Link {
    pub(super) fn new(http: reqwest::Client, source: Arc<dyn Source>, options: &Options) -> Self {
        let current = Current { url: None, generation: 0, worked: false };
        let expected_etag = options.etag.as_deref().map(|text| etag::unquoted(text).to_owned());
        Self {
            http,
            source,
            current: Mutex::new(current),
            pinned: OnceLock::new(),
            expected_etag: expected_etag.filter(|etag| !etag.is_empty()),
            name: OnceLock::new(),
        }
    }

    /// The object as logs and errors name it: its URL without secrets.
    pub(super) fn name(&self) -> String {
        self.name.get().cloned().unwrap_or_else(|| "the object".to_owned())
    }

    pub(super) fn etag(&self) -> Option<&str> {
        self.pinned.get()?.etag.as_deref()
    }

    /// Asks for the first part and pins what the answer says of the object.
    pub(super) async fn first(&self, options: &Options) -> Result<First, Error> {
        let mut tries = options.policy.tries();
        loop {
            match self.ask(0, options.part_size).await {
                Ok(Answer::Part { response, size }) => {
                    self.pin(&response, Some(size))?;
                    return Ok(First::Ranged { response, size });
                }
                Ok(Answer::Whole { response }) => {
                    self.pin(&response, None)?;
                    return Ok(First::Whole { response });
                }
                Ok(Answer::Empty) => return Ok(First::Empty),
                Ok(Answer::Refused { .. }) => unreachable!("ask() replaces refused URLs"),
                Err(error) => {
                    let transient = error.is_transient();
                    tries.failed("download", transient, error).await?;
                }
            }
        }
    }

    /// Asks for the bytes `start..end` of the pinned object.
    pub(super) async fn range(&self, start: u64, end: u64) -> Result<Response, Error> {
        let answer = self.ask(start, end).await?;
        let Answer::Part { response, size } = answer else {
            return Err(Error::Answer {
                object: self.name(),
                expected: format!("bytes from {start}"),
                found: "the whole object".to_owned(),
            });
        };
        self.compare(&response, Some(size))?;
        Ok(response)
    }

    /// Asks once more for all of an object from a server that knows no ranges.
    pub(super) async fn again(&self) -> Result<Response, Error> {
        match self.ask(0, u64::MAX).await? {
            Answer::Whole { response } | Answer::Part { response, .. } => {
                self.compare(&response, None)?;
                Ok(response)
            }
            _ => Err(Error::Answer {
                object: self.name(),
                expected: "the whole object".to_owned(),
                found: "nothing".to_owned(),
            }),
        }
    }

    /// One request, and one more from each fresh URL while the last is refused.
    async fn ask(&self, start: u64, end: u64) -> Result<Answer, Error> {
        loop {
            let (url, generation) = self.url().await?;
            let mut request = self.http.get(url);
            if end != u64::MAX {
                request = request.header(RANGE, format!("bytes={start}-{}", end - 1));
            }
            if let Some(etag) = self.etag().filter(|etag| !etag.starts_with("W/")) {
                request = request.header(IF_MATCH, format!("\"{etag}\""));
            }
            let response = request.send().await.map_err(|error| self.broken(error))?;
            match answer::sort(response, start, &self.name())? {
                Answer::Refused { status } => self.replace(generation, status).await?,
                answer => {
                    self.worked(generation).await;
                    return Ok(answer);
                }
            }
        }
    }

    fn broken(&self, error: reqwest::Error) -> Error {
        Error::Broken { object: self.name(), source: error.without_url() }
    }

    /// The body of a response was interrupted.
    pub(super) fn ended(&self, error: pace::Error) -> Error {
        match error {
            pace::Error::Broken(source) => self.broken(source),
            pace::Error::Slow(source) => Error::Slow { object: self.name(), source },
        }
    }

    /// The URL of the moment and its number.
    async fn url(&self) -> Result<(Url, u64), Error> {
        let mut current = self.current.lock().await;
        if current.url.is_none() {
            self.look_up(&mut current).await?;
        }
        let url = current.url.clone().expect("look_up() sets it or fails");
        Ok((url, current.generation))
    }

    async fn look_up(&self, current: &mut Current) -> Result<(), Error> {
        let url = self.source.url().await.map_err(Error::Source)?;
        self.name.get_or_init(|| redact::url(&url));
        *current = Current { url: Some(url), generation: current.generation + 1, worked: false };
        Ok(())
    }

    async fn worked(&self, generation: u64) {
        let mut current = self.current.lock().await;
        if current.generation == generation {
            current.worked = true;
        }
    }

    /// Fetches a fresh URL, once for all ranges that found the same one refused.
    ///
    /// The first URL may be stale from the start; one that was just looked up and never worked means
    /// that another will not help.
    async fn replace(&self, generation: u64, status: u16) -> Result<(), Error> {
        let mut current = self.current.lock().await;
        if current.generation != generation {
            return Ok(());
        }
        if !current.worked && generation > 1 {
            return Err(Error::Denied { object: self.name(), status });
        }
        tracing::info!(status, object = self.name(), "download URL refused, looking up a new one");
        self.look_up(&mut current).await
    }

    fn pin(&self, response: &Response, size: Option<u64>) -> Result<(), Error> {
        let etag = answer::etag_of(response);
        if let (Some(expected), Some(found)) = (&self.expected_etag, &etag) {
            self.same("its etag", expected, found)?;
        }
        if etag.is_none() {
            tracing::warn!(
                object = self.name(),
                "the server sends no etag: a change during the download is detected by size and \
                 md5 only"
            );
        }
        // Set once: `first` returns after it.
        let _ = self.pinned.set(Pinned { etag, size });
        Ok(())
    }

    fn compare(&self, response: &Response, size: Option<u64>) -> Result<(), Error> {
        let Some(pinned) = self.pinned.get() else { return Ok(()) };
        if let (Some(pinned), found) = (&pinned.etag, answer::etag_of(response)) {
            self.same("its etag", pinned, &found.unwrap_or_default())?;
        }
        match (pinned.size, size) {
            (Some(pinned), Some(found)) => {
                self.same("its size", &pinned.to_string(), &found.to_string())
            }
            _ => Ok(()),
        }
    }

    fn same(&self, what: &'static str, pinned: &str, found: &str) -> Result<(), Error> {
        if pinned == found {
            return Ok(());
        }
        Err(Error::Changed {
            object: self.name(),
            what,
            pinned: pinned.to_owned(),
            found: found.to_owned(),
        })
    }
}
