//! The master side of a terminal, read and written without blocking.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Window;

/// When the last clone is dropped, the terminal hangs up.
#[derive(Debug, Clone)]
pub struct Master(Arc<AsyncFd<OwnedFd>>);

impl Master {
    /// Must be called within a tokio runtime.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // SAFETY: tokio asks that the descriptor stays open and the same while it is registered: an
        // OwnedFd does, and it is moved in and never taken out.
        let fd = unsafe { AsyncFd::register(fd)? };
        Ok(Self(Arc::new(fd)))
    }

    /// Bytes read; 0 when every slave is closed (the kernel says EIO). Cancel safe.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |fd: &OwnedFd| Ok(nix::unistd::read(fd, buffer)?);
        match self.0.async_io(Interest::READABLE, read).await {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
            other => other,
        }
    }

    /// Bytes written, at least one. Cancel safe.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.async_io(Interest::WRITABLE, |fd| Ok(nix::unistd::write(fd, bytes)?)).await
    }

    /// Sets the size of the terminal; the kernel sends SIGWINCH to the foreground process group.
    pub fn resize(&self, window: Window) -> io::Result<()> {
        super::resize(self.0.get_ref().as_fd(), window)
    }
}
