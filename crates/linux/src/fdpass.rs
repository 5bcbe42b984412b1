//! Frames with file descriptors over a Unix stream socket: between the agent and the jail's init.
//!
//! A frame is a 32-bit little-endian length, to which the descriptors are attached, then the body.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Largest body: a command line of 128 KiB (the kernel's bound for one argument) in base64, and more.
pub const MAX_FRAME: usize = 1 << 20;

/// Most descriptors in a frame: stdin, stdout, stderr.
pub const MAX_FDS: usize = 3;

/// Sends one frame whole; blocks while the peer's buffer is full.
pub fn send(mut socket: &UnixStream, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let length = u32::try_from(body.len()).ok().filter(|&n| n as usize <= MAX_FRAME);
    let Some(length) = length else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "frame too large"));
    };
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights[..] };
    let header = length.to_le_bytes();
    let part = [IoSlice::new(&header)];
    // MSG_NOSIGNAL: a peer that died is an error to handle, not SIGPIPE.
    sendmsg::<()>(socket.as_raw_fd(), &part, control, MsgFlags::MSG_NOSIGNAL, None)?;
    socket.write_all(body)
}

/// Receives one frame; `None` at the end of the stream. Descriptors arrive close-on-exec.
pub fn receive(mut socket: &UnixStream) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut header = [0; 4];
    let (count, fds) = receive_header(socket, &mut header)?;
    if count == 0 {
        return Ok(None);
    }
    let length = u32::from_le_bytes(header) as usize;
    if count != header.len() || length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "malformed frame"));
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body)?;
    Ok(Some((body, fds)))
}

fn receive_header(socket: &UnixStream, header: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; MAX_FDS]);
    let mut part = [IoSliceMut::new(header)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut part, Some(&mut space), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just made these descriptors for us; nobody else owns them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_frame_brings_its_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        send(&a, b"first", &[writer.as_fd()]).unwrap();
        send(&a, b"", &[]).unwrap();
        drop((a, writer));

        let (body, mut fds) = receive(&b).unwrap().unwrap();
        assert_eq!(body, b"first");
        let mut passed = std::fs::File::from(fds.pop().unwrap());
        passed.write_all(b"through").unwrap();
        drop(passed);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");

        assert_eq!(receive(&b).unwrap().unwrap().0, b"");
        assert!(receive(&b).unwrap().is_none());
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused() {
        let (mut a, b) = UnixStream::pair().unwrap();
        a.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(receive(&b).is_err());
        assert!(send(&a, &vec![0; MAX_FRAME + 1], &[]).is_err());
    }
}
