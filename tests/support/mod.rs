//! What the tests of the whole program share: roots, stores, a running standalone, clients.
//!
//! Nothing here sleeps in place of a condition, and everything that is started ends with its guard.
#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(clippy::disallowed_methods, reason = "variables say where the lab is")]

pub mod cfs;
pub mod ims;
pub mod pod;
pub mod process;
pub mod proxy;
pub mod recipe;
pub mod ssh;
pub mod stand;
pub mod tls;
pub mod tree;

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longest wait for anything that should happen soon, on a busy machine of two cores.
pub const SOON: Duration = Duration::from_secs(60);

/// The program under test.
pub fn agent() -> PathBuf {
    env!("CARGO_BIN_EXE_ims-job-agent").into()
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Asks `condition` until it answers; panics with `what` when `limit` has passed.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(start.elapsed() < limit, "{what} did not happen within {limit:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The value of a variable that `scripts/test` sets for tests on real components.
pub fn lab(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run the tests with scripts/test"))
}
