//! Pseudo-terminals of a given devpts: the jail's own where it has one, else the container's.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

mod request {
    // asm-generic/ioctls.h
    nix::ioctl_write_ptr_bad!(unlock, libc::TIOCSPTLCK, libc::c_int);
    nix::ioctl_read_bad!(number, libc::TIOCGPTN, libc::c_uint);
    nix::ioctl_write_int_bad!(peer, libc::TIOCGPTPEER);
    nix::ioctl_write_int_bad!(set_controlling, libc::TIOCSCTTY);
}

/// Opens a new master by the multiplexer `ptmx` and its slave: `(master, slave)`.
///
/// The slave is opened through the master (TIOCGPTPEER), never by name: a name could mean another
/// devpts instance.
pub fn open_pair(ptmx: &Path) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = open(ptmx, flags, Mode::empty())?;
    // SAFETY: the argument is a live int, as this request reads.
    unsafe { request::unlock(master.as_raw_fd(), &0)? };
    // SAFETY: the argument is a plain number (open flags); the result is a new descriptor.
    let slave = unsafe { request::peer(master.as_raw_fd(), flags.bits())? };
    // SAFETY: just made by the kernel for us, nobody else owns it.
    Ok((master, unsafe { OwnedFd::from_raw_fd(slave) }))
}

/// The slave's name as seen by who lives with that devpts: `/dev/pts/N`.
pub fn slave_name(master: &OwnedFd) -> io::Result<String> {
    let mut number = 0;
    // SAFETY: the argument is a live unsigned int that the kernel fills in.
    unsafe { request::number(master.as_raw_fd(), &mut number)? };
    Ok(format!("/dev/pts/{number}"))
}

/// Makes `slave` the controlling terminal of the calling session leader.
pub fn set_controlling(slave: &OwnedFd) -> io::Result<()> {
    // SAFETY: the argument is a plain number: 0, do not steal another session's terminal.
    unsafe { request::set_controlling(slave.as_raw_fd(), 0)? };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn what_is_typed_arrives_at_the_slave() {
        let (master, slave) = open_pair(Path::new("/dev/ptmx")).unwrap();
        assert!(slave_name(&master).unwrap().starts_with("/dev/pts/"));
        std::fs::File::from(master.try_clone().unwrap()).write_all(b"hello\n").unwrap();
        let mut line = [0; 6];
        std::fs::File::from(slave).read_exact(&mut line).unwrap();
        assert_eq!(&line, b"hello\n");
    }
}
