//! Data that a client has sent to one channel and the channel's program has not read yet.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

use super::budget::Budget;
use super::spill::{Piece, Spill};
use super::throttle::{Load, Throttle};

/// Bytes of an inbox in memory; what comes on top goes to disk.
const MEMORY: u64 = 4 << 20;
/// Small packets (keystrokes) are joined in blocks of this size, so that they cost no more than big ones.
const BLOCK: usize = 4 << 10;
/// The most that one `next` gives out.
const PIECE: u64 = 64 << 10;

/// A queue with one producer that never waits (the connection) and one consumer (the session).
#[derive(Debug, Clone)]
pub struct Inbox {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    arrived: Notify,
    budget: Arc<Budget>,
    throttle: Arc<Throttle>,
    load: Arc<Load>,
}

#[derive(Debug, Default)]
struct State {
    memory: VecDeque<BytesMut>,
    /// Bytes in `memory`, and the capacity of its blocks, of which `overrun` was not in the budget.
    length: u64,
    capacity: u64,
    overrun: u64,
    /// Newer than everything in memory. Once it is in use it takes all that comes until it is empty.
    spill: Option<Spill>,
    ended: bool,
    discarding: bool,
}

enum Next {
    Memory(Bytes),
    Disk(Piece),
    End,
    Nothing,
}

impl Inbox {
    pub fn new(budget: Arc<Budget>, throttle: Arc<Throttle>) -> Self {
        let load = throttle.enter();
        let state = Mutex::new(State::default());
        Self { shared: Arc::new(Shared { state, arrived: Notify::new(), budget, throttle, load }) }
    }

    /// Queues what the client has sent. Never waits and never refuses: the throttle sees to it that
    /// the client stops.
    pub fn push(&self, data: &[u8]) {
        let mut state = self.shared.lock();
        if state.discarding || state.ended {
            return;
        }
        self.shared.store(&mut state, data);
        self.shared.publish(&state);
        drop(state);
        self.shared.arrived.notify_one();
    }

    /// The client sends no more (EOF, or the channel or connection is closed).
    pub fn end(&self) {
        self.shared.lock().ended = true;
        self.shared.arrived.notify_one();
    }

    /// The consumer takes no more: everything queued and everything to come is thrown away.
    pub fn discard(&self) {
        let mut state = self.shared.lock();
        state.discarding = true;
        self.shared.release(&mut state);
        self.shared.publish(&state);
    }

    /// The next bytes in the order they came; `None` after the last. Cancel safe up to the point where
    /// bytes from disk are being read. Coming back for more counts as progress.
    pub async fn next(&self) -> io::Result<Option<Bytes>> {
        loop {
            let next = {
                let mut state = self.shared.lock();
                let next = self.shared.take(&mut state);
                self.shared.publish(&state);
                next
            };
            match next {
                Next::Memory(bytes) => {
                    self.shared.load.progress();
                    return Ok(Some(bytes));
                }
                Next::Disk(piece) => {
                    self.shared.load.progress();
                    let read = tokio::task::spawn_blocking(move || piece.read()).await;
                    return Ok(Some(read.map_err(io::Error::other)??.into()));
                }
                Next::End => return Ok(None),
                Next::Nothing => self.shared.arrived.notified().await,
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn store(&self, state: &mut State, data: &[u8]) {
        let spilling = state.spill.as_ref().is_some_and(|spill| spill.len() > 0);
        let length = data.len() as u64;
        if !spilling && state.capacity < MEMORY && self.remember(state, data, true) {
            return;
        }
        if self.budget.disk.take(length) {
            let appended = append(state, &self.budget, data);
            self.budget.disk_works(&appended);
            if appended.is_ok() {
                return;
            }
            self.budget.disk.give(length);
        }
        if spilling {
            // Order first: with the file in use nothing newer may go to memory, so the file takes it
            // beyond the budget. One socket buffer at most, then the throttle holds the client.
            if append(state, &self.budget, data).is_ok() {
                self.budget.disk.force(length);
                return;
            }
            // The disk refuses and order cannot be kept: the input ends here rather than be garbled.
            tracing::warn!("session input is lost: the disk for queued input is full");
            state.ended = true;
            return;
        }
        self.remember(state, data, false);
    }

    /// Puts `data` in memory. With `paid`, only when the budget has room for it.
    fn remember(&self, state: &mut State, data: &[u8], paid: bool) -> bool {
        if let Some(last) = state.memory.back_mut()
            && last.capacity() - last.len() >= data.len()
        {
            last.extend_from_slice(data);
            state.length += data.len() as u64;
            return true;
        }
        let mut block = BytesMut::with_capacity(data.len().max(BLOCK));
        let capacity = block.capacity() as u64;
        if paid && !self.budget.memory.take(capacity) {
            return false;
        }
        block.extend_from_slice(data);
        state.length += data.len() as u64;
        state.capacity += capacity;
        if !paid {
            state.overrun += capacity;
        }
        state.memory.push_back(block);
        true
    }

    fn take(&self, state: &mut State) -> Next {
        if let Some(block) = state.memory.pop_front() {
            state.length -= block.len() as u64;
            self.forget(state, block.capacity() as u64);
            return Next::Memory(block.freeze());
        }
        if let Some(spill) = &mut state.spill {
            let reclaimed = spill.reclaim();
            self.budget.disk.give(reclaimed);
            if spill.len() > 0 {
                return Next::Disk(spill.next(PIECE));
            }
        }
        if state.ended { Next::End } else { Next::Nothing }
    }

    /// `capacity` bytes of memory are no longer held; what was beyond the budget goes first.
    fn forget(&self, state: &mut State, capacity: u64) {
        let unpaid = capacity.min(state.overrun);
        state.capacity -= capacity;
        state.overrun -= unpaid;
        self.budget.memory.give(capacity - unpaid);
    }

    fn release(&self, state: &mut State) {
        state.memory.clear();
        state.length = 0;
        self.forget(state, state.capacity);
        if let Some(spill) = state.spill.take() {
            self.budget.disk.give(spill.held());
        }
    }

    /// Reports the length of the queue to the throttle.
    fn publish(&self, state: &State) {
        let spilled = state.spill.as_ref().map_or(0, Spill::len);
        self.throttle.report(&self.load, state.length + spilled, state.overrun > 0);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let mut state = std::mem::take(&mut *self.lock());
        self.release(&mut state);
        self.throttle.leave(&self.load);
    }
}

fn append(state: &mut State, budget: &Budget, data: &[u8]) -> io::Result<()> {
    let spill = match &mut state.spill {
        Some(spill) => spill,
        none => none.insert(Spill::open(budget.directory())?),
    };
    spill.append(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn inbox(memory: u64, disk: u64) -> (Inbox, Arc<Budget>) {
        let budget = Arc::new(Budget::new(memory, disk, std::env::temp_dir()));
        (Inbox::new(Arc::clone(&budget), Arc::new(Throttle::new(Arc::clone(&budget)))), budget)
    }

    async fn drain(inbox: &Inbox) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(bytes) = inbox.next().await.unwrap() {
            all.extend_from_slice(&bytes);
        }
        all
    }

    #[tokio::test]
    async fn order_is_kept_through_memory_and_disk_and_both_are_given_back() {
        let (inbox, budget) = inbox(1 << 20, 64 << 20);
        let sent: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
        let (first, second) = sent.split_at(9 << 20);
        first.chunks(32_000).for_each(|chunk| inbox.push(chunk));
        assert!(budget.memory.room() < 64 << 10, "memory first");
        assert!(budget.disk.room() < 57 << 20, "then disk");
        let mut got = inbox.next().await.unwrap().unwrap().to_vec();
        second.chunks(100).for_each(|chunk| inbox.push(chunk));
        inbox.end();
        got.extend(drain(&inbox).await);
        assert!(got == sent);
        assert_eq!((budget.memory.room(), budget.disk.room()), (1 << 20, 64 << 20));
    }

    #[tokio::test]
    async fn many_small_packets_cost_little_more_than_their_bytes() {
        let (inbox, budget) = inbox(1 << 20, 0);
        (0..100_000).for_each(|_| inbox.push(b"x"));
        assert!(budget.memory.room() >= (1 << 20) - 120_000);
        inbox.end();
        assert_eq!(drain(&inbox).await.len(), 100_000);
    }

    #[tokio::test]
    async fn nothing_is_lost_when_the_budget_is_used_up() {
        let (inbox, _) = inbox(8 << 10, 8 << 10);
        let sent = vec![5; 200_000];
        sent.chunks(1000).for_each(|chunk| inbox.push(chunk));
        inbox.end();
        assert!(drain(&inbox).await == sent);
    }

    #[tokio::test]
    async fn a_consumer_that_left_costs_nothing() {
        let (inbox, budget) = inbox(1 << 20, 64 << 20);
        inbox.push(&vec![0; 5 << 20]);
        inbox.discard();
        inbox.push(&vec![0; 5 << 20]);
        assert_eq!((budget.memory.room(), budget.disk.room()), (1 << 20, 64 << 20));
        inbox.end();
        assert!(inbox.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_waiting_consumer_hears_of_data_and_of_the_end() {
        let (inbox, _) = inbox(1 << 20, 0);
        let consumer = tokio::spawn({
            let inbox = inbox.clone();
            async move { drain(&inbox).await }
        });
        inbox.push(b"a");
        tokio::task::yield_now().await;
        inbox.push(b"b");
        inbox.end();
        let got = tokio::time::timeout(Duration::from_secs(10), consumer).await.unwrap().unwrap();
        assert_eq!(got, b"ab");
    }
}
