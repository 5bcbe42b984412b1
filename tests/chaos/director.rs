//! Decides at every request what becomes of it, and keeps the list of requests.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tokio_util::sync::CancellationToken;

use crate::fault::Fault;
use crate::proxy::Service;

/// A request, or a change of the directory: the `nth` (from 1) of its label in a job; 0 is the next one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    pub label: String,
    pub nth: usize,
}

impl Spot {
    /// Whether this one is meant by `other`.
    fn is(&self, other: &Self) -> bool {
        self.label == other.label && (other.nth == 0 || other.nth == self.nth)
    }
}

impl std::fmt::Display for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.nth {
            0 | 1 => f.write_str(&self.label),
            nth => write!(f, "{}.n{nth}", self.label),
        }
    }
}

/// How many requests fail, from the chosen one on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Of the same label.
    Of(usize),
    /// Of the same label, until healed.
    Ever,
    /// All to the same service, until healed.
    All,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Pass,
    /// Waits before it is passed on.
    StopBefore,
    /// Waits with the answer.
    StopAfter,
    Fault(Fault),
}

/// What is to happen at which request.
#[derive(Debug, Clone)]
pub enum Plan {
    Stop { at: Spot, after: bool },
    Fail { at: Spot, fault: Fault, times: Times },
}

#[derive(Default)]
struct State {
    seen: BTreeMap<String, usize>,
    order: Vec<Spot>,
    plan: Option<Plan>,
    /// Fails whatever else happens, until healed.
    standing: Option<(String, Fault)>,
    /// How often the planned fault was made.
    made: usize,
}

#[derive(Default)]
pub struct Director {
    state: Mutex<State>,
    gate: Mutex<Gate>,
    healed: CancellationToken,
}

#[derive(Default, Clone)]
struct Gate {
    reached: CancellationToken,
    open: CancellationToken,
}

impl Director {
    /// From now on; replaces what was planned.
    pub fn plan(&self, plan: Plan) {
        *self.gate.lock().unwrap() = Gate::default();
        self.state.lock().unwrap().plan = Some(plan);
    }

    pub fn standing(&self, label: &str, fault: Fault) {
        self.state.lock().unwrap().standing = Some((label.to_owned(), fault));
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Spot> {
        self.state.lock().unwrap().order.clone()
    }

    /// Whether the planned fault was met, or the planned stop reached.
    pub fn happened(&self) -> bool {
        self.state.lock().unwrap().made > 0 || self.is_stopped()
    }

    /// A request waits at the planned stop.
    pub fn is_stopped(&self) -> bool {
        let gate = self.gate.lock().unwrap();
        gate.reached.is_cancelled() && !gate.open.is_cancelled()
    }

    /// What waits goes on.
    pub fn release(&self) {
        self.gate.lock().unwrap().open.cancel();
    }

    /// No request fails any more, none is stopped.
    pub fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        (state.plan, state.standing) = (None, None);
        self.healed.cancel();
    }

    pub fn healed(&self) -> CancellationToken {
        self.healed.clone()
    }

    /// Called by the proxies. With a fault comes for how many requests it is, if that is counted.
    pub fn asked(&self, service: Service, label: &str) -> (Order, Option<usize>) {
        let mut state = self.state.lock().unwrap();
        let nth = state.seen.entry(label.to_owned()).or_default();
        *nth += 1;
        let spot = Spot { label: label.to_owned(), nth: *nth };
        state.order.push(spot.clone());
        state.decide(service, &spot)
    }

    /// Called by the proxies where a request is to stop.
    pub async fn stopped(&self) {
        let gate = self.gate.lock().unwrap().clone();
        gate.reached.cancel();
        gate.open.cancelled().await;
    }
}

impl State {
    fn decide(&mut self, service: Service, spot: &Spot) -> (Order, Option<usize>) {
        if let Some((label, fault)) = &self.standing
            && *label == spot.label
        {
            return (Order::Fault(*fault), None);
        }
        match self.plan.clone() {
            Some(Plan::Stop { at, after }) if spot.is(&at) => {
                self.plan = None;
                (if after { Order::StopAfter } else { Order::StopBefore }, None)
            }
            // One that refuses does so for a time, and not for a number of requests.
            Some(Plan::Fail { fault: Fault::Refused, .. }) if self.made > 0 => (Order::Pass, None),
            Some(Plan::Fail { at, fault, times }) if self.fails(service, spot, &at, times) => {
                self.made += 1;
                let count = if let Times::Of(count) = times { Some(count) } else { None };
                (Order::Fault(fault), count)
            }
            _ => (Order::Pass, None),
        }
    }

    fn fails(&self, service: Service, spot: &Spot, at: &Spot, times: Times) -> bool {
        let begun = self.made > 0 || spot == at;
        match times {
            Times::Of(count) => begun && spot.label == at.label && self.made < count,
            Times::Ever => begun && spot.label == at.label,
            Times::All => begun && at.label.starts_with(&format!("{}.", service.name())),
        }
    }
}
