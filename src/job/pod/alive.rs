//! Whether the container that serves the sessions lives: one that is killed leaves no file behind
//! that says so, but its control socket closes. Called by the agent of the pod.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::attend::control::Watcher;
use crate::telemetry::status::Board;
use crate::workspace::Layout;

/// Between two tries to reach it.
const TRY_INTERVAL: Duration = Duration::from_millis(100);

/// How long a container may be away. The kubelet starts one again within 10 s, later within 20 s.
const RESTART_DEADLINE: Duration = Duration::from_secs(60);

/// One that ends in an orderly way closes its socket some seconds before it says so.
const ORDERLY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
#[error(
    "the container that serves the sessions was killed and did not come back within {} s: see its \
     last state in the pod (OOMKilled, Evicted)",
    .0.as_secs()
)]
pub(super) struct Gone(Duration);

/// Watches the container that serves the sessions, which accepts connections; shows on the board how
/// many sessions there are. Returns when it is gone for good.
pub(super) async fn watch(layout: &Layout, board: &Board) -> Result<Infallible, Gone> {
    watch_for(layout, board, RESTART_DEADLINE).await
}

async fn watch_for(layout: &Layout, board: &Board, deadline: Duration) -> Result<Infallible, Gone> {
    let Some(mut watcher) = reach(layout, ORDERLY).await else {
        tracing::warn!(
            "the container of the sessions does not run this program: cannot monitor it"
        );
        return std::future::pending().await;
    };
    loop {
        // An answer that cannot be read is an end as well.
        while let Ok(Some(sessions)) = watcher.next().await {
            board.set_sessions(sessions.len());
        }
        board.set_sessions(0);
        let soon = ORDERLY.min(deadline);
        watcher = match reach(layout, soon).await {
            Some(watcher) => watcher,
            None => {
                tracing::warn!("the container of the sessions was killed; waiting for its restart");
                reach(layout, deadline - soon).await.ok_or(Gone(deadline))?
            }
        };
    }
}

async fn reach(layout: &Layout, deadline: Duration) -> Option<Watcher> {
    let end = Instant::now() + deadline;
    loop {
        match Watcher::connect(layout) {
            Ok(watcher) => return Some(watcher),
            Err(_) if Instant::now() < end => sleep(TRY_INTERVAL).await,
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux::unix;

    fn layout() -> (tempfile::TempDir, Layout) {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        layout.make_agent_dir().unwrap();
        (dir, layout)
    }

    #[tokio::test]
    async fn a_server_that_comes_back_is_watched_again_and_one_that_does_not_is_gone() {
        let (_dir, layout) = layout();
        let board = Board::new("job".into());
        let first = unix::listen_private(&layout.control()).unwrap();
        let watching = tokio::spawn({
            let layout = layout.clone();
            async move { watch_for(&layout, &board, Duration::from_millis(400)).await }
        });
        let first = tokio::net::UnixListener::from_std(first).unwrap();
        let (connection, _) = first.accept().await.unwrap();
        // As after SIGKILL: the socket file stays, nobody listens.
        drop((connection, first));
        let second = unix::listen_private(&layout.control()).unwrap();
        let second = tokio::net::UnixListener::from_std(second).unwrap();
        let (connection, _) = second.accept().await.unwrap();
        assert!(!watching.is_finished());
        drop((connection, second));
        let gone = watching.await.unwrap().unwrap_err();
        assert!(gone.to_string().contains("was killed"), "{gone}");
    }
}
