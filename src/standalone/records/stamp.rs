//! Times as IMS writes them: UTC, microseconds, no zone (contract section 7).

use jiff::civil::DateTime;
use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// `2018-11-21T18:22:53.409405`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(DateTime);

impl Stamp {
    pub fn now() -> Self {
        let micros = Timestamp::now().as_microsecond();
        let now = Timestamp::from_microsecond(micros).unwrap_or_default();
        Self(TimeZone::UTC.to_datetime(now))
    }

    /// The time `span` ago; `None` if that is before the calendar begins.
    pub fn ago(span: std::time::Duration) -> Option<Self> {
        Self::now().0.checked_sub(span).ok().map(Self)
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.strftime("%Y-%m-%dT%H:%M:%S%.6f"))
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_without_zone_and_with_six_digits() {
        let stamp: Stamp = serde_json::from_str("\"2018-11-21T18:22:53.4\"").unwrap();
        assert_eq!(serde_json::to_string(&stamp).unwrap(), "\"2018-11-21T18:22:53.400000\"");
    }
}
