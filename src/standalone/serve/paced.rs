//! A request body with a minimum transfer rate.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a sender may be waited for, at first and again after it has sent enough.
const PATIENCE: Duration = Duration::from_secs(120);
/// What buys another second of waiting: the least rate is a KiB a second.
const BYTES: f64 = 1024.0;

/// Passes a body on, and breaks off when its sender was waited for too long. Only the time counts that
/// is spent waiting for the sender: an upload may take hours, and a disk may be slow.
#[derive(Debug)]
pub struct Paced<B> {
    body: B,
    /// What is left of [`PATIENCE`].
    patience: Duration,
    most: Duration,
    /// Since when the sender is waited for, and until when.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// The sender was too slow.
#[derive(Debug, thiserror::Error)]
pub enum Error<E: std::error::Error + 'static> {
    #[error(transparent)]
    Body(E),
    #[error("the body of the request is too slow: less than 1 KiB per second")]
    Slow,
}

impl<B> Paced<B> {
    pub fn new(body: B) -> Self {
        Self::with(body, PATIENCE)
    }

    fn with(body: B, most: Duration) -> Self {
        Self { body, patience: most, most, waiting: None }
    }
}

impl<B> HttpBody for Paced<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::error::Error + 'static,
{
    type Data = Bytes;
    type Error = Error<B::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            if let Some((since, _)) = this.waiting.take() {
                this.patience = this.patience.saturating_sub(since.elapsed());
            }
            let bytes = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            let bought = bytes.map_or(0.0, |bytes| bytes.len() as f64 / BYTES);
            this.patience = (this.patience + Duration::from_secs_f64(bought)).min(this.most);
            return Poll::Ready(frame.map(|frame| frame.map_err(Error::Body)));
        }
        let patience = this.patience;
        let (_, limit) = this.waiting.get_or_insert_with(|| {
            let now = Instant::now();
            (now, Box::pin(sleep_until(now + patience)))
        });
        ready!(limit.as_mut().poll(cx));
        Poll::Ready(Some(Err(Error::Slow)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use futures::{StreamExt, stream};
    use http_body_util::BodyExt;

    /// A body of `size` bytes every `pause` milliseconds, `times` times; for 300 may it be waited.
    fn body(size: usize, pause: u64, times: usize) -> Paced<Body> {
        let chunks = stream::iter(0..times).then(move |_| async move {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            Ok::<_, std::io::Error>(Bytes::from(vec![0; size]))
        });
        Paced::with(Body::from_stream(chunks), Duration::from_millis(300))
    }

    #[tokio::test]
    async fn what_goes_on_may_take_long_and_a_trickle_ends() {
        // 1.5 s in all; each piece buys more time than it took.
        let long = body(4 << 10, 50, 30).collect().await.unwrap();
        assert_eq!(long.to_bytes().len(), 30 * (4 << 10));
        for (size, pause, times) in [(1, 20, 1000), (1 << 20, 5000, 1)] {
            let slow = body(size, pause, times).collect().await;
            assert!(matches!(slow, Err(Error::Slow)), "{size} bytes each {pause} ms");
        }
    }
}
