//! The retry policy, as a value: exponential backoff with jitter until a deadline.
//!
//! The deadline decides, not a number of attempts: a service that restarts is unavailable for
//! minutes. Each try has its own timeout, far below the deadline, so that a lost response costs one
//! try and not the job.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often and how long an operation is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Number of tries, including the first; `u32::MAX` if only the deadline decides.
    pub attempts: u32,
    /// Pause after the first failure; doubled after each further one.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// No try starts later than this after the first, except the second: after a try that took all
    /// of the time there is always another.
    pub deadline: Duration,
    /// Total time for the response to one small request. Transfers of image data have their own
    /// limits.
    pub answer: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            attempts: u32::MAX,
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(15),
            deadline: Duration::from_secs(180),
            answer: Duration::from_secs(60),
        }
    }
}

/// Total time for a cleanup after a failure: the pod may be about to be killed.
pub const CLEAN_UP_LIMIT: Duration = Duration::from_secs(30);

/// How long the answer to a request that changes something is waited for after a cancellation.
pub const LAST_ANSWER: Duration = Duration::from_secs(5);

/// Why [`Policy::run`] ended without a result.
#[derive(Debug)]
pub enum Failure<E> {
    /// The error is not transient, or the last try failed.
    Gave(E),
    /// The token was cancelled.
    Cancelled,
}

impl Policy {
    /// For a cleanup after a failure, within [`CLEAN_UP_LIMIT`].
    pub const CLEAN_UP: Policy = Policy {
        attempts: u32::MAX,
        first_pause: Duration::from_millis(250),
        longest_pause: Duration::from_secs(4),
        deadline: Duration::from_secs(15),
        answer: Duration::from_secs(8),
    };

    /// The default rules for services that are waited for no longer than `timeout`
    /// (`IMS_PYTHON_HELPER_TIMEOUT`).
    pub fn within(timeout: Duration) -> Self {
        let policy = Self::default();
        Self {
            deadline: policy.deadline.min(timeout),
            answer: policy.answer.min(timeout),
            ..policy
        }
    }

    /// The pause after failure number `failures` (1 is the first), before jitter.
    pub fn pause(&self, failures: u32) -> Duration {
        let factor = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first_pause.saturating_mul(factor).min(self.longest_pause)
    }

    /// Calls `operation` until it succeeds, fails for good, or the policy is used up.
    ///
    /// `what` names the operation in the log line of each retry. `transient` says whether trying
    /// again can help.
    pub async fn run<T, E, F, Fut>(
        &self,
        what: &str,
        cancel: &CancellationToken,
        transient: impl Fn(&E) -> bool,
        mut operation: F,
    ) -> Result<T, Failure<E>>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: std::error::Error + 'static,
    {
        let mut tries = self.tries();
        let all_tries = async {
            loop {
                match operation().await {
                    Ok(value) => return Ok(value),
                    Err(error) => {
                        let transient = transient(&error);
                        tries.failed(what, transient, error).await?;
                    }
                }
            }
        };
        tokio::select! {
            biased;
            _ = cancel.cancelled() => Err(Failure::Cancelled),
            result = all_tries => result.map_err(Failure::Gave),
        }
    }

    /// Like [`Policy::run`], for what changes something: where `cancel` finds a try on its way, its answer is
    /// waited for, within [`LAST_ANSWER`]. A success counts then as well.
    pub async fn run_to_answer<T, E, F, Fut>(
        &self,
        what: &str,
        cancel: &CancellationToken,
        transient: impl Fn(&E) -> bool,
        mut operation: F,
    ) -> Result<T, Failure<E>>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: std::error::Error + 'static,
    {
        let mut tries = self.tries();
        let late = async {
            cancel.cancelled().await;
            tokio::time::sleep(LAST_ANSWER).await;
        };
        let mut late = std::pin::pin!(late);
        while !cancel.is_cancelled() {
            let error = tokio::select! {
                answer = operation() => match answer {
                    Ok(value) => return Ok(value),
                    Err(error) => error,
                },
                () = &mut late => break,
            };
            let transient = transient(&error);
            let again = tries.failed(what, transient, error);
            let again = cancel.run_until_cancelled(again).await.unwrap_or(Ok(()));
            again.map_err(Failure::Gave)?;
        }
        Err(Failure::Cancelled)
    }

    /// Starts to count failures, for an operation that resumes after an interruption.
    pub fn tries(self) -> Tries {
        Tries { policy: self, failures: 0, start: Instant::now() }
    }
}

/// The failures of one operation, counted against a [`Policy`].
#[derive(Debug)]
pub struct Tries {
    policy: Policy,
    failures: u32,
    start: Instant,
}

impl Tries {
    /// Starts over: the operation made progress, so the peer is alive.
    pub fn progressed(&mut self) {
        self.failures = 0;
        self.start = Instant::now();
    }

    /// Counts a failure and waits until the next try is due.
    ///
    /// Returns `error` if there is no next try: it is not transient, or the policy is used up.
    pub async fn failed<E: std::error::Error + 'static>(
        &mut self,
        what: &str,
        transient: bool,
        error: E,
    ) -> Result<(), E> {
        self.failures += 1;
        let pause = jittered(self.policy.pause(self.failures));
        let late = self.start.elapsed() + pause > self.policy.deadline;
        if !transient || self.failures >= self.policy.attempts || (late && self.failures > 1) {
            return Err(error);
        }
        tracing::warn!(
            attempt = self.failures,
            retry_in_ms = pause.as_millis() as u64,
            error = %linux::error::chain(&error),
            "{what} failed, retrying"
        );
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// Between half of `pause` and all of it, so that many clients do not come back as one.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};

    /// Quick enough for a test that waits for real.
    const QUICK: Policy = Policy {
        attempts: 100,
        first_pause: Duration::from_millis(2),
        longest_pause: Duration::from_millis(4),
        deadline: Duration::from_secs(60),
        answer: Duration::from_secs(60),
    };

    fn refused() -> Error {
        ErrorKind::ConnectionRefused.into()
    }

    #[tokio::test]
    async fn a_transient_error_is_tried_again_until_it_succeeds() {
        let mut calls = 0;
        let result = Policy::default()
            .run(
                "test",
                &CancellationToken::new(),
                |_| true,
                || {
                    calls += 1;
                    let result = if calls < 3 { Err(refused()) } else { Ok(calls) };
                    async move { result }
                },
            )
            .await;
        assert_eq!(result.unwrap(), 3);
    }

    #[tokio::test]
    async fn attempts_and_deadline_bound_the_tries() {
        for (policy, most) in [
            (Policy { attempts: 3, ..QUICK }, 3),
            (Policy { deadline: Duration::from_millis(20), ..QUICK }, 20),
        ] {
            let (calls, _) = tries(policy, Duration::ZERO).await;
            assert!(calls <= most, "{calls} calls");
        }
    }

    #[tokio::test]
    async fn a_permanent_error_is_not_tried_again() {
        let mut calls = 0;
        let result: Result<(), _> = Policy::default()
            .run(
                "test",
                &CancellationToken::new(),
                |_| false,
                || {
                    calls += 1;
                    async { Err(refused()) }
                },
            )
            .await;
        assert!(matches!(result, Err(Failure::Gave(_))));
        assert_eq!(calls, 1);
    }

    #[tokio::test]
    async fn a_request_that_is_on_its_way_is_answered_though_it_is_cancelled() {
        let cancel = CancellationToken::new();
        let mut calls = 0;
        let answered = QUICK.run_to_answer(
            "test",
            &cancel,
            |_: &Error| true,
            || {
                calls += 1;
                let cancel = cancel.clone();
                async move {
                    cancel.cancel();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Ok(7)
                }
            },
        );
        assert_eq!(answered.await.unwrap(), 7);
        let later = QUICK.run_to_answer("test", &cancel, |_: &Error| true, || async { Ok(8) });
        assert!(matches!(later.await, Err(Failure::Cancelled)), "none is begun any more");
        assert_eq!(calls, 1);
    }

    #[tokio::test]
    async fn a_failure_after_a_cancellation_is_one() {
        let cancel = CancellationToken::new();
        let result: Result<(), _> = QUICK
            .run_to_answer(
                "test",
                &cancel,
                |_| true,
                || {
                    cancel.cancel();
                    async { Err(refused()) }
                },
            )
            .await;
        assert!(matches!(result, Err(Failure::Cancelled)));
    }

    /// How often an operation is tried that fails after `takes` for as long as it is asked.
    async fn tries(policy: Policy, takes: Duration) -> (u32, Duration) {
        let (start, mut calls) = (Instant::now(), 0);
        let result: Result<(), _> = policy
            .run(
                "test",
                &CancellationToken::new(),
                |_| true,
                || {
                    calls += 1;
                    async move {
                        tokio::time::sleep(takes).await;
                        Err(refused())
                    }
                },
            )
            .await;
        assert!(matches!(result, Err(Failure::Gave(_))));
        (calls, start.elapsed())
    }

    #[tokio::test]
    async fn by_default_the_deadline_decides() {
        let (pause, deadline) = (Duration::from_millis(1), Duration::from_millis(200));
        let policy =
            Policy { first_pause: pause, longest_pause: pause, deadline, ..Policy::default() };
        let (calls, took) = tries(policy, Duration::ZERO).await;
        assert!(took > deadline - 2 * pause, "given up after {took:?} and {calls} tries");
    }

    #[tokio::test]
    async fn a_try_that_took_all_the_time_is_still_worth_another() {
        let policy = Policy::within(Duration::from_millis(20));
        assert_eq!(policy.answer, Duration::from_millis(20));
        assert_eq!(tries(policy, policy.answer).await.0, 2);
        let once = Policy { attempts: 1, ..policy };
        assert_eq!(tries(once, policy.answer).await.0, 1);
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let policy = Policy::default();
        assert_eq!(policy.pause(1), Duration::from_millis(250));
        assert_eq!(policy.pause(2), Duration::from_millis(500));
        assert_eq!(policy.pause(40), Duration::from_secs(15));
    }
}
