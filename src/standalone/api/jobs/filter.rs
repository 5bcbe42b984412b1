//! `DELETE jobs?status=&job_type=&age=`: selects the jobs to delete.

use std::time::Duration;

use serde::Deserialize;

use super::STATUSES;
use crate::standalone::records::{Job, Stamp};

/// The query as it came; an empty value is no filter.
#[derive(Debug, Default, Deserialize)]
pub struct Filter {
    status: Option<String>,
    job_type: Option<String>,
    age: Option<String>,
}

/// A filter that was understood.
#[derive(Debug)]
pub struct Wanted {
    status: Option<String>,
    job_type: Option<String>,
    /// Only jobs made before this.
    before: Option<Stamp>,
}

impl Filter {
    /// The filter, or why it cannot be understood.
    ///
    /// IMS takes an age it cannot read for none, and deletes every job; here it is an error.
    pub fn parse(self) -> Result<Wanted, String> {
        let status = self.status.filter(|text| !text.is_empty());
        if let Some(status) = &status
            && !STATUSES.contains(&status.as_str())
        {
            return Err(format!("status must be one of: {}", STATUSES.join(", ")));
        }
        let job_type = self.job_type.filter(|text| !text.is_empty());
        if let Some(job_type) = &job_type
            && !["create", "customize"].contains(&job_type.as_str())
        {
            return Err("job_type must be create or customize".into());
        }
        let before = match self.age.filter(|text| !text.is_empty()) {
            None => None,
            Some(text) => Some(age(&text).and_then(Stamp::ago).ok_or_else(|| {
                format!("age {text:?} must be like 1w2d3h4m: weeks, days, hours, minutes")
            })?),
        };
        Ok(Wanted { status, job_type, before })
    }
}

impl Wanted {
    pub fn matches(&self, job: &Job) -> bool {
        self.status.as_ref().is_none_or(|status| *status == job.status.to_string())
            && self.job_type.as_ref().is_none_or(|job_type| *job_type == job.job_type)
            && self.before.is_none_or(|before| job.created < before)
    }
}

/// `1w2d3h4m`, each unit at most once, spaces and whole words (`3 hours`) allowed.
fn age(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let word = rest[digits..].trim_start();
        let end = word.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(word.len());
        let minutes = match word[..end].to_ascii_lowercase().as_str() {
            "w" | "week" | "weeks" => 7 * 24 * 60,
            "d" | "day" | "days" => 24 * 60,
            "h" | "hour" | "hours" => 60,
            "m" | "minute" | "minutes" => 1,
            _ => return None,
        };
        if seen.contains(&minutes) {
            return None;
        }
        seen.push(minutes);
        let seconds = number.checked_mul(minutes * 60)?;
        total = total.checked_add(Duration::from_secs(seconds))?;
        rest = word[end..].trim_start();
    }
    (!seen.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_whole_or_not_at_all() {
        let hours = |h: u64| Some(Duration::from_secs(h * 3600));
        assert_eq!(age("3h"), hours(3));
        assert_eq!(age("1w2d3h"), hours(7 * 24 + 48 + 3));
        assert_eq!(age("3 hours"), hours(3));
        assert_eq!(age("0m"), hours(0));
        for bad in ["", "1x", "h", "5", "1h1h", "1h x", "-1h", "1.5h", "99999999999999999999w"] {
            assert_eq!(age(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let filter = |status: &str, job_type: &str, age: &str| Filter {
            status: Some(status.into()),
            job_type: Some(job_type.into()),
            age: Some(age.into()),
        };
        assert!(filter("", "", "").parse().is_ok());
        assert!(filter("error", "create", "1d").parse().is_ok());
        assert!(filter("bogus", "", "").parse().is_err());
        assert!(filter("", "bogus", "").parse().is_err());
        assert!(filter("", "", "1x").parse().is_err());
        assert!(filter("", "", "9999999999w").parse().is_err());
    }
}
