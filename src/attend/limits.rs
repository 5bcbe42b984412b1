//! Time limits of a job that waits for its user: an idle limit and a deadline, with warnings in the
//! sessions.

use std::fmt;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::ssh;

/// Both off by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct TimeLimits {
    /// Without a byte in any session, and none begun or ended.
    pub idle: Option<Duration>,
    /// From the start of the agent to the signal of the user; packing is not cut short.
    pub deadline: Option<Duration>,
}

/// Why the job ended before its user was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TimeLimitExceeded {
    #[error("no session was used for {} (--idle-limit)", Time(*.0))]
    Idle(Duration),
    #[error("the user did not complete the image within {} (--deadline)", Time(*.0))]
    Deadline(Duration),
}

/// A time as people say it.
pub(crate) struct Time(pub Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            seconds if seconds % 3600 == 0 && seconds > 3600 => {
                write!(f, "{} hours", seconds / 3600)
            }
            seconds if seconds % 60 == 0 && seconds > 60 => write!(f, "{} minutes", seconds / 60),
            seconds => write!(f, "{seconds} seconds"),
        }
    }
}

/// `since` and `patience`, to the second.
pub(crate) fn until(since: Timestamp, patience: Duration) -> Timestamp {
    let patience = SignedDuration::try_from(patience).unwrap_or(SignedDuration::MAX);
    let until = since.checked_add(patience).unwrap_or(Timestamp::MAX);
    until.round(jiff::Unit::Second).unwrap_or(until)
}

/// Remaining times at which the sessions are warned, the longest first.
const WARNINGS: [Duration; 3] =
    [Duration::from_secs(600), Duration::from_secs(60), Duration::from_secs(10)];

/// How late a limit may be noticed.
const INTERVAL: Duration = Duration::from_millis(250);

/// Returns when a limit is exceeded; never, if there is none. `started`: when the agent did.
pub(crate) async fn watch(
    limits: TimeLimits,
    started: Instant,
    server: &ssh::Handle,
) -> TimeLimitExceeded {
    let mut interval = tokio::time::interval(INTERVAL);
    let (mut idle, mut deadline) = (Warned::default(), Warned::default());
    loop {
        interval.tick().await;
        if let Some(limit) = limits.deadline {
            let left = limit.saturating_sub(started.elapsed());
            if left.is_zero() {
                return TimeLimitExceeded::Deadline(limit);
            }
            if let Some(left) = deadline.due(limit, left) {
                server.notice(&format!(
                    "This job ends with an error in {} unless the image is complete by then \
                     (deadline).\n",
                    Time(left)
                ));
            }
        }
        if let Some(limit) = limits.idle {
            let left = limit.saturating_sub(server.idle());
            if left.is_zero() {
                return TimeLimitExceeded::Idle(limit);
            }
            if let Some(left) = idle.due(limit, left) {
                server.notice(&format!(
                    "This job ends with an error in {} unless a session is used (idle limit).\n",
                    Time(left)
                ));
            }
        }
    }
}

/// Which warnings have been given.
#[derive(Debug, Default)]
struct Warned(usize);

impl Warned {
    /// What to warn of now. A time that grew again, because somebody came back, is warned of again.
    fn due(&mut self, limit: Duration, left: Duration) -> Option<Duration> {
        // A warning at the very beginning of a short limit would be useless.
        let reached = WARNINGS.iter().filter(|&&at| left <= at).count();
        let before = std::mem::replace(&mut self.0, reached);
        let at = *WARNINGS.get(reached.checked_sub(1)?)?;
        (reached > before && limit > at).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_warning_comes_once_until_somebody_is_back() {
        let (mut warned, hour) = (Warned::default(), Duration::from_secs(3600));
        let mut due =
            |seconds| warned.due(hour, Duration::from_secs(seconds)).map(|at| at.as_secs());
        assert_eq!([3600, 601, 600, 599].map(&mut due), [None, None, Some(600), None]);
        assert_eq!([60, 3599, 600, 9, 1].map(due), [Some(60), None, Some(600), Some(10), None]);
    }

    #[test]
    fn a_short_limit_is_not_warned_of_before_it_began() {
        let (mut warned, minute) = (Warned::default(), Duration::from_secs(60));
        assert_eq!(warned.due(minute, minute), None);
        assert!(warned.due(minute, Duration::from_secs(10)).is_some());
    }
}
