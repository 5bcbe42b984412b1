//! Interprets a response to a ranged GET (RFC 9110, sections 13 to 15).

use reqwest::header::{CONTENT_RANGE, ETAG};
use reqwest::{Response, StatusCode};

use super::error::Error;
use crate::etag;

/// An answer, sorted.
pub(super) enum Answer {
    /// 206: the bytes from where we asked, of an object of `size` bytes.
    Part { response: Response, size: u64 },
    /// 200: the server knows no ranges and sends all of it.
    Whole { response: Response },
    /// 416 to a range that begins at 0: there is not one byte.
    Empty,
    /// 401, 403 or 410: the URL does not work (any more).
    Refused { status: u16 },
}

/// Sorts the answer to `bytes=start-`; everything else is an error.
pub(super) fn sort(response: Response, start: u64, object: &str) -> Result<Answer, Error> {
    let object = object.to_owned();
    let status = response.status();
    match status {
        StatusCode::PARTIAL_CONTENT => {
            let (found, size) = content_range(&response).ok_or_else(|| Error::Answer {
                object: object.clone(),
                expected: format!("bytes from {start}"),
                found: "206 without a usable Content-Range".to_owned(),
            })?;
            if found != start {
                return Err(Error::Answer {
                    object,
                    expected: format!("bytes from {start}"),
                    found: format!("bytes from {found}"),
                });
            }
            Ok(Answer::Part { response, size })
        }
        StatusCode::RANGE_NOT_SATISFIABLE if start == 0 => Ok(Answer::Empty),
        StatusCode::RANGE_NOT_SATISFIABLE => Err(Error::Changed {
            object,
            what: "its size",
            pinned: format!("more than {start} bytes"),
            found: "less".to_owned(),
        }),
        StatusCode::PRECONDITION_FAILED => Err(Error::Changed {
            object,
            what: "its etag",
            pinned: "the one of the first answer".to_owned(),
            found: "another (status 412)".to_owned(),
        }),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::GONE => {
            Ok(Answer::Refused { status: status.as_u16() })
        }
        StatusCode::NOT_FOUND => Err(Error::NotFound { object }),
        status if status.is_success() => Ok(Answer::Whole { response }),
        status => Err(Error::Status { object, status: status.as_u16() }),
    }
}

/// The etag header without quotes.
pub(super) fn etag_of(response: &Response) -> Option<String> {
    let header = response.headers().get(ETAG)?.to_str().ok()?;
    Some(etag::unquoted(header).to_owned())
}

/// First byte and size of the whole, of `Content-Range: bytes 0-9/100`.
fn content_range(response: &Response) -> Option<(u64, u64)> {
    parse_content_range(response.headers().get(CONTENT_RANGE)?.to_str().ok()?)
}

fn parse_content_range(header: &str) -> Option<(u64, u64)> {
    let (range, size) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size): (u64, u64, u64) =
        (first.trim().parse().ok()?, last.trim().parse().ok()?, size.trim().parse().ok()?);
    (first <= last && last < size).then_some((first, size))
}

#[cfg(test)]
mod tests {
    use super::parse_content_range;

    #[test]
    fn content_ranges_that_make_no_sense_are_refused() {
        assert_eq!(parse_content_range("bytes 0-9/100"), Some((0, 100)));
        assert_eq!(parse_content_range("bytes 90-99/100"), Some((90, 100)));
        for bad in ["", "bytes */100", "bytes 0-9/*", "bytes 9-0/100", "bytes 0-100/100", "0-9/10"]
        {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }
}
