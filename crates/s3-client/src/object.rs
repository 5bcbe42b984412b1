//! The name of an object, as manifests and records link to it.

use std::fmt;
use std::str::FromStr;

/// A bucket and a key; shown and read as `s3://bucket/key`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Object {
    /// The bucket.
    pub bucket: String,
    /// The key, without a slash at its start.
    pub key: String,
}

/// The text is not an `s3://bucket/key` path.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a path of the form s3://bucket/key")]
pub struct BadPath(String);

impl Object {
    /// The object `key` in `bucket`.
    pub fn new(bucket: impl Into<String>, key: impl Into<String>) -> Self {
        Self { bucket: bucket.into(), key: key.into() }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

impl FromStr for Object {
    type Err = BadPath;

    fn from_str(text: &str) -> Result<Self, BadPath> {
        text.strip_prefix("s3://")
            .and_then(|rest| rest.split_once('/'))
            .filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty())
            .map(|(bucket, key)| Self::new(bucket, key))
            .ok_or_else(|| BadPath(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_bucket_and_a_key_and_nothing_else() {
        let object: Object = "s3://boot-images/0f1a/rootfs".parse().unwrap();
        assert_eq!(object, Object::new("boot-images", "0f1a/rootfs"));
        assert_eq!(object.to_string(), "s3://boot-images/0f1a/rootfs");
        for bad in ["", "boot-images/x", "s3://", "s3://bucket", "s3://bucket/", "s3:///key"] {
            assert!(bad.parse::<Object>().is_err(), "{bad}");
        }
    }
}
