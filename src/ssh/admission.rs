//! `MaxStartups`: limits the number of unauthenticated connections, and how many of them one
//! address may open per second.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::config::MaxStartups;

/// Connections of one source that may begin in a [`TURN`] without logging in. Others wait: each key
/// exchange costs us more than the client (the DHEat attack, CVE-2002-20001), and clients that do log
/// in, however many at once, should not notice.
const TURNS: usize = 10;
const TURN: Duration = Duration::from_secs(1);

/// Counts the connections that have not logged in.
#[derive(Debug)]
pub(super) struct Admission {
    limits: MaxStartups,
    startups: Mutex<Startups>,
}

#[derive(Debug, Default)]
struct Startups {
    sources: HashMap<IpAddr, Source>,
    /// Connections dropped since it became crowded.
    dropped: u64,
}

/// One client's address.
#[derive(Debug)]
struct Source {
    startups: u32,
    turns: Arc<Semaphore>,
}

impl Default for Source {
    fn default() -> Self {
        Self { startups: 0, turns: Arc::new(Semaphore::new(TURNS)) }
    }
}

/// A counted connection; dropped when it has logged in or closed.
#[derive(Debug)]
pub(super) struct Startup {
    admission: Arc<Admission>,
    address: IpAddr,
    turns: Arc<Semaphore>,
}

impl Admission {
    pub(super) fn new(limits: MaxStartups) -> Self {
        Self { limits, startups: Mutex::default() }
    }

    /// `percent` is a random number below 100: the early drop hits by chance, so that a flood cannot
    /// keep everybody else out.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr, percent: u32) -> Option<Startup> {
        let address = address.to_canonical();
        let mut startups = self.lock();
        let total = startups.sources.values().map(|source| source.startups).sum();
        let of_source = startups.sources.get(&address).map_or(0, |source| source.startups);
        let crowded = self.limits.per_source.is_some_and(|most| of_source >= most);
        if crowded || percent < self.chance(total) {
            startups.dropped += 1;
            if startups.dropped == 1 {
                tracing::warn!(%address, "too many unauthenticated connections: beginning \
                    MaxStartups throttling");
            }
            return None;
        }
        if startups.dropped > 0 && self.chance(total) == 0 {
            let dropped = std::mem::take(&mut startups.dropped);
            tracing::info!(dropped, "exited MaxStartups throttling");
        }
        let source = startups.sources.entry(address).or_default();
        source.startups += 1;
        let turns = Arc::clone(&source.turns);
        Some(Startup { admission: Arc::clone(self), address, turns })
    }

    /// The chance, in percent, that a connection is dropped while `total` wait (sshd.c's
    /// should_drop_connection).
    fn chance(&self, total: u32) -> u32 {
        let MaxStartups { start, rate, full, .. } = self.limits;
        if total < start {
            return 0;
        }
        if total >= full || rate >= 100 {
            return 100;
        }
        (100 - rate) * (total - start) / (full - start).max(1) + rate
    }

    fn lock(&self) -> MutexGuard<'_, Startups> {
        self.startups.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Changes what is known of `address`, and forgets it when nothing is.
    fn update(&self, address: IpAddr, change: impl FnOnce(&mut Source)) {
        let sources = &mut self.lock().sources;
        let Some(source) = sources.get_mut(&address) else { return };
        change(source);
        if source.startups == 0 && source.turns.available_permits() == TURNS {
            sources.remove(&address);
        }
    }
}

impl Startup {
    /// Waits until the connection may begin. Its turn is over when it has logged in, or after a second.
    pub(super) async fn turn(&self, authenticated: &CancellationToken) {
        // Never closed.
        let Ok(permit) = Arc::clone(&self.turns).acquire_owned().await else { return };
        let (admission, address) = (Arc::clone(&self.admission), self.address);
        let authenticated = authenticated.clone();
        tokio::spawn(async move {
            let _ = tokio::time::timeout(TURN, authenticated.cancelled()).await;
            admission.update(address, |_| drop::<OwnedSemaphorePermit>(permit));
        });
    }
}

impl Drop for Startup {
    fn drop(&mut self) {
        self.admission.update(self.address, |source| source.startups -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(per_source: Option<u32>) -> Arc<Admission> {
        let limits = MaxStartups { start: 2, rate: 30, full: 4, per_source };
        Arc::new(Admission::new(limits))
    }

    fn address(last: u8) -> IpAddr {
        [127, 0, 0, last].into()
    }

    #[test]
    fn the_chance_to_be_dropped_rises_to_certainty() {
        let admission = admission(None);
        let _first = admission.admit(address(1), 0).unwrap();
        let _second = admission.admit(address(1), 0).unwrap();
        assert!(admission.admit(address(1), 29).is_none());
        let _third = admission.admit(address(1), 30).unwrap();
        assert!(admission.admit(address(1), 64).is_none());
        let fourth = admission.admit(address(1), 65).unwrap();
        assert!(admission.admit(address(1), 99).is_none());
        drop(fourth);
        assert!(admission.admit(address(1), 99).is_some());
    }

    #[test]
    fn one_source_can_be_limited_alone() {
        let admission = admission(Some(1));
        let first = admission.admit(address(1), 99).unwrap();
        assert!(admission.admit(address(1), 99).is_none());
        assert!(admission.admit(address(2), 99).is_some());
        drop(first);
        assert!(admission.admit(address(1), 99).is_some());
        assert!(admission.lock().sources.is_empty());
    }

    #[tokio::test]
    async fn a_source_begins_ten_a_second_but_for_those_that_log_in() {
        let limits = MaxStartups { start: 1000, rate: 30, full: 1000, per_source: None };
        let admission = Arc::new(Admission::new(limits));
        let begin = async |last| {
            let startup = admission.admit(address(last), 99).unwrap();
            let authenticated = CancellationToken::new();
            startup.turn(&authenticated).await;
            authenticated
        };
        let begun = std::time::Instant::now();
        for _ in 0..100 {
            begin(1).await.cancel();
        }
        assert!(begun.elapsed() < 5 * TURN, "clients that log in do not wait");
        for _ in 0..25 {
            begin(1).await;
        }
        assert!(begun.elapsed() >= 2 * TURN);
        let others = std::time::Instant::now();
        begin(2).await;
        assert!(others.elapsed() < TURN, "sources do not wait for each other");
        while !admission.lock().sources.is_empty() {
            tokio::time::sleep(TURN / 10).await;
        }
    }
}
