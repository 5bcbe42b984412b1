//! Reads a response up to a size limit: records, manifests, error texts.

/// Why a bounded read failed.
#[allow(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the connection broke before the end of the response")]
    Broken(#[source] reqwest::Error),
    #[error("the response is longer than {limit} bytes")]
    TooLong { limit: usize },
}

/// The whole body, if it is not longer than `limit` bytes.
pub async fn read_limited(mut response: reqwest::Response, limit: usize) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) =
        response.chunk().await.map_err(|error| Error::Broken(error.without_url()))?
    {
        if body.len() + chunk.len() > limit {
            return Err(Error::TooLong { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
