//! The TCP stream as the SSH library sees it: throttled, counted, and closed on request of the
//! server.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::throttle::{Gate, Pace, Throttle};

/// Bytes read from the socket at once: packets are read in two small steps, the socket in big ones.
const BUFFER: usize = 64 << 10;

/// Bytes that went over the wire, as encrypted.
#[derive(Debug, Default)]
pub struct Wire {
    pub received: AtomicU64,
    pub sent: AtomicU64,
}

/// Ends (reads see the end, writes fail) as soon as its token is cancelled: the library's own
/// disconnect may wait for a client for ever.
pub struct SessionStream {
    tcp: TcpStream,
    throttle: Arc<Throttle>,
    pace: Pace,
    sleep: Pin<Box<Sleep>>,
    sleeping: bool,
    buffer: BytesMut,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    token: CancellationToken,
    wire: Arc<Wire>,
}

impl SessionStream {
    pub fn new(
        tcp: TcpStream,
        throttle: Arc<Throttle>,
        token: CancellationToken,
        wire: Arc<Wire>,
    ) -> Self {
        Self {
            tcp,
            throttle,
            pace: Pace::new(Instant::now()),
            sleep: Box::pin(tokio::time::sleep(std::time::Duration::ZERO)),
            sleeping: false,
            buffer: BytesMut::new(),
            cut: Box::pin(token.clone().cancelled_owned()),
            token,
            wire,
        }
    }

    /// How many bytes may be read now.
    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            if self.sleeping {
                self.throttle.reader.register(cx.waker());
            }
            let now = Instant::now();
            let time = match self.throttle.gate(&mut self.pace, now) {
                Gate::Open => {
                    self.sleeping = false;
                    return Poll::Ready(usize::MAX);
                }
                Gate::AtMost(bytes) => {
                    self.sleeping = false;
                    return Poll::Ready(bytes);
                }
                Gate::Wait(time) => time,
            };
            // The waker is registered before the last check of the gate: no wake-up is lost.
            if !std::mem::replace(&mut self.sleeping, true) {
                self.sleep.as_mut().reset((now + time).into());
                continue;
            }
            ready!(self.sleep.as_mut().poll(cx));
            self.sleep.as_mut().reset((now + time).into());
        }
    }

    /// Reads from the socket: into `buf` when it is big, else into our own buffer.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let most = ready!(self.poll_gate(cx)).max(1);
        let direct = buf.remaining() >= BUFFER;
        if !direct {
            self.buffer.resize(BUFFER, 0);
        }
        let target = if direct { buf.initialize_unfilled() } else { &mut self.buffer[..] };
        let most = most.min(target.len());
        let mut piece = ReadBuf::new(&mut target[..most]);
        let result = Pin::new(&mut self.tcp).poll_read(cx, &mut piece);
        let count = piece.filled().len();
        if direct {
            buf.advance(count);
        } else {
            self.buffer.truncate(count);
        }
        if count > 0 {
            self.pace.took(count);
            self.wire.received.fetch_add(count as u64, Ordering::Relaxed);
        }
        result
    }
}

impl AsyncRead for SessionStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if this.buffer.is_empty() {
            let before = buf.filled().len();
            ready!(this.poll_fill(cx, buf))?;
            if this.buffer.is_empty() || buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
        let count = this.buffer.len().min(buf.remaining());
        buf.put_slice(&this.buffer[..count]);
        this.buffer.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SessionStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.token.is_cancelled() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let count = match Pin::new(&mut this.tcp).poll_write(cx, buf) {
            // A client that reads nothing would keep this task for ever: the reader's half, polled by
            // the same task, is not woken while the library waits here.
            Poll::Pending => {
                ready!(this.cut.as_mut().poll(cx));
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            Poll::Ready(result) => result?,
        };
        this.wire.sent.fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().tcp).poll_shutdown(cx)
    }
}
