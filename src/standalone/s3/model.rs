//! The index entries of an object, an upload and a part, as JSON values.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A stretch of a blob. Objects are lists of these, so that completing a multipart upload and
/// copying an object move no bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub blob: Uuid,
    pub offset: u64,
    pub len: u64,
}

/// Headers that a client sets and gets back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// `x-amz-meta-*`, without the prefix.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_disposition: Option<String>,
    pub content_language: Option<String>,
    pub cache_control: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    pub segments: Vec<Segment>,
    /// Bytes.
    pub size: u64,
    /// Without quotes.
    pub etag: String,
    /// Microseconds since 1970.
    pub modified: u64,
    pub attributes: Attributes,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Upload {
    pub bucket: String,
    pub key: String,
    pub attributes: Attributes,
    pub started: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Part {
    pub segments: Vec<Segment>,
    pub size: u64,
    /// MD5 of the part's bytes, in hex: the part's etag.
    pub etag: String,
    pub modified: u64,
}

impl Object {
    pub fn blobs(&self) -> Vec<Uuid> {
        self.segments.iter().map(|segment| segment.blob).collect()
    }
}

/// Microseconds since 1970.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

pub fn time(micros: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}

/// The stretches of `segments` that make up `start..end` of their concatenation.
pub fn slice(segments: &[Segment], start: u64, end: u64) -> Vec<Segment> {
    let mut at = 0;
    let mut out = Vec::new();
    for segment in segments {
        let from = start.clamp(at, at + segment.len);
        let to = end.clamp(at, at + segment.len);
        if from < to {
            out.push(Segment {
                blob: segment.blob,
                offset: segment.offset + (from - at),
                len: to - from,
            });
        }
        at += segment.len;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_follow_segment_borders() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let segments =
            [Segment { blob: a, offset: 10, len: 5 }, Segment { blob: b, offset: 0, len: 5 }];
        let cut = |start, end| {
            slice(&segments, start, end)
                .iter()
                .map(|s| (s.blob.as_u128(), s.offset, s.len))
                .collect::<Vec<_>>()
        };
        assert_eq!(cut(0, 10), [(1, 10, 5), (2, 0, 5)]);
        assert_eq!(cut(4, 6), [(1, 14, 1), (2, 0, 1)]);
        assert_eq!(cut(5, 10), [(2, 0, 5)]);
        assert_eq!(cut(3, 3), []);
    }
}
