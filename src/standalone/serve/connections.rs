//! Counts connections, in total and per source, and knows which of them are idle.
//!
//! At the limit, the connection that has been idle longest is closed for a new one, so that idle
//! connections cannot block other clients.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;

/// All connections of a listener. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connections {
    table: Arc<Mutex<Table>>,
}

#[derive(Debug)]
struct Table {
    /// In all; one source may have half of them.
    most: usize,
    next: u64,
    open: HashMap<u64, State>,
}

#[derive(Debug)]
struct State {
    from: IpAddr,
    /// Requests in progress.
    busy: usize,
    /// Requests so far.
    asked: u64,
    /// Since when there is none in progress.
    since: Instant,
    evict: CancellationToken,
}

/// One of them; not counted any more once it is dropped.
#[derive(Debug)]
pub struct Connection {
    id: u64,
    table: Arc<Mutex<Table>>,
    evict: CancellationToken,
}

/// A request in progress on a connection, until it is dropped.
#[derive(Debug)]
pub struct Busy {
    id: u64,
    table: Arc<Mutex<Table>>,
}

impl Connections {
    pub fn new(most: usize) -> Self {
        Self { table: Arc::new(Mutex::new(Table { most, next: 0, open: HashMap::new() })) }
    }

    /// Counts a new connection. `None`: there are too many, and all of them are in use.
    pub fn enter(&self, from: IpAddr) -> Option<Connection> {
        let mut table = lock(&self.table);
        // One host with IPv6 has a whole network of addresses.
        let from = network(from);
        let of_source = table.open.values().filter(|state| state.from == from).count();
        if of_source >= table.most.div_ceil(2) {
            table.evict(|state| state.from == from)?;
        } else if table.open.len() >= table.most {
            table.evict(|_| true)?;
        }
        let (id, evict) = (table.next, CancellationToken::new());
        table.next += 1;
        let state = State { from, busy: 0, asked: 0, since: Instant::now(), evict: evict.clone() };
        table.open.insert(id, state);
        Some(Connection { id, table: self.table.clone(), evict })
    }
}

impl Table {
    /// Ends the longest idle connection of those; `None` if none is idle.
    fn evict(&mut self, of: impl Fn(&State) -> bool) -> Option<()> {
        let idle = self.open.iter().filter(|(_, state)| state.busy == 0 && of(state));
        let longest = idle.min_by_key(|(_, state)| state.since).map(|(id, _)| *id)?;
        self.open.remove(&longest)?.evict.cancel();
        Some(())
    }
}

impl Connection {
    /// Counts a request.
    pub fn busy(&self) -> Busy {
        if let Some(state) = lock(&self.table).open.get_mut(&self.id) {
            state.busy += 1;
            state.asked += 1;
        }
        Busy { id: self.id, table: self.table.clone() }
    }

    /// Whether there was a request.
    pub fn has_asked(&self) -> bool {
        lock(&self.table).open.get(&self.id).is_some_and(|state| state.asked > 0)
    }

    /// Returns when it has to make room.
    pub async fn evicted(&self) {
        self.evict.cancelled().await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.table).open.remove(&self.id);
    }
}

impl Busy {
    /// The body, which keeps its connection busy until it has ended.
    pub fn until_the_end_of(self, body: Body) -> Body {
        Body::new(BusyBody { body, _busy: self })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(state) = lock(&self.table).open.get_mut(&self.id) {
            state.busy = state.busy.saturating_sub(1);
            state.since = Instant::now();
        }
    }
}

struct BusyBody {
    body: Body,
    _busy: Busy,
}

impl HttpBody for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn network(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => IpAddr::V6((ip.to_bits() >> 64 << 64).into()),
        ip => ip,
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn is_evicted(connection: &Connection) -> bool {
        connection.evict.is_cancelled()
    }

    #[test]
    fn the_longest_idle_makes_room_and_the_busy_stay() {
        let connections = Connections::new(8);
        let (a, b) = (ip("127.0.0.1"), ip("10.0.0.1"));
        let mut of_a: Vec<_> = (0..4).map(|_| connections.enter(a).unwrap()).collect();
        let busy: Vec<_> = of_a[..2].iter().map(Connection::busy).collect();
        // The half of all is one source's limit.
        of_a.push(connections.enter(a).unwrap());
        assert_eq!(
            of_a.iter().map(is_evicted).collect::<Vec<_>>(),
            [false, false, true, false, false]
        );
        let more: Vec<_> = of_a.iter().map(Connection::busy).collect();
        assert!(connections.enter(a).is_none(), "nobody of this source is idle");
        let others: Vec<_> = (0..4).map(|_| connections.enter(b).unwrap()).collect();
        drop((busy, more));
        // Full: the longest idle of all is the first of the second source.
        let third = connections.enter(ip("10.0.0.2")).unwrap();
        assert!(!is_evicted(&third) && is_evicted(&others[0]) && !is_evicted(&others[1]));
        assert_eq!(lock(&connections.table).open.len(), 8);
        drop((of_a, third));
        assert_eq!(lock(&connections.table).open.len(), 3);
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        assert_eq!(network(ip("2001:db8::1")), network(ip("2001:db8::2")));
        assert_ne!(network(ip("2001:db8::1")), network(ip("2001:db8:0:1::1")));
        assert_eq!(network(ip("::ffff:10.0.0.1")), ip("10.0.0.1"));
        assert_ne!(network(ip("::1")), network(ip("::2")));
    }
}
