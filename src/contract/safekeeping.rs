//! Settings that protect the work of users: how long a job is held, where its work is saved.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How long a job waits for a repair, and where the work of one that fails is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Safekeeping {
    /// `IMS_JOB_HOLD`: the time to repair IMS, the store, or the network.
    pub hold: Duration,
    /// `IMS_JOB_GRACE`: for users who repair the image.
    pub grace: Duration,
    /// `IMS_JOB_GRACE_UNATTENDED`: the same where no person is logged in.
    pub unattended: Duration,
    /// `IMS_JOB_RESCUE`
    pub rescue: Option<RescuePlace>,
}

impl Default for Safekeeping {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(24 * 3600),
            grace: Duration::from_secs(30 * 60),
            unattended: Duration::from_secs(120),
            rescue: None,
        }
    }
}

/// Where the work of a job that fails is saved: it outlives the volume of the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RescuePlace {
    Directory(PathBuf),
    /// `prefix` has no slash at its ends.
    Store {
        bucket: String,
        prefix: String,
    },
}

impl FromStr for RescuePlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(place) = text.strip_prefix("s3://") {
            let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
            if bucket.is_empty() {
                return Err("does not name a bucket".into());
            }
            let prefix = prefix.trim_matches('/').to_owned();
            return Ok(Self::Store { bucket: bucket.to_owned(), prefix });
        }
        if text.starts_with('/') {
            return Ok(Self::Directory(text.into()));
        }
        Err("is neither an absolute path nor s3://BUCKET/PREFIX".into())
    }
}

impl fmt::Display for RescuePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Store { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_directory_or_in_the_store() {
        let place = |text: &str| text.parse::<RescuePlace>();
        assert_eq!(place("/mnt/rescue"), Ok(RescuePlace::Directory("/mnt/rescue".into())));
        let store =
            |prefix: &str| Ok(RescuePlace::Store { bucket: "saved".into(), prefix: prefix.into() });
        assert_eq!(place("s3://saved"), store(""));
        assert_eq!(place("s3://saved/a/b/"), store("a/b"));
        for wrong in ["rescue", "s3://", "s3:///x", "http://host/x"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
