//! `MaxStartups`: how many connections may be there that have not logged in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use super::config::MaxStartups;

/// Counts the connections that have not logged in.
#[derive(Debug)]
pub(super) struct Admission {
    limits: MaxStartups,
    waiting: Mutex<HashMap<IpAddr, u32>>,
}

/// A counted connection; dropped when it has logged in or gone.
#[derive(Debug)]
pub(super) struct Startup {
    admission: Arc<Admission>,
    address: IpAddr,
}

impl Admission {
    pub(super) fn new(limits: MaxStartups) -> Self {
        Self { limits, waiting: Mutex::default() }
    }

    /// `percent` is a random number below 100: the early drop hits by chance, so that a flood cannot
    /// keep everybody else out.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr, percent: u32) -> Option<Startup> {
        let address = address.to_canonical();
        let mut waiting = self.lock();
        let total: u32 = waiting.values().sum();
        let source = waiting.get(&address).copied().unwrap_or(0);
        let crowded = self.limits.per_source.is_some_and(|most| source >= most);
        if crowded || percent < self.chance(total) {
            return None;
        }
        *waiting.entry(address).or_default() += 1;
        Some(Startup { admission: Arc::clone(self), address })
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

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.waiting.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Startup {
    fn drop(&mut self) {
        let mut waiting = self.admission.lock();
        if let Some(count) = waiting.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.address);
            }
        }
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
        assert!(admission.lock().is_empty());
    }
}
