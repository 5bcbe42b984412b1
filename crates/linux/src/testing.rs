//! What tests of the whole workspace ask of the kernel, and the programs do not.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, mknod};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::stat::{self, FileKind};

/// From now on the kernel of this thread has no Landlock, as before Linux 5.13.
pub fn forget_landlock() -> Result<(), seccompiler::Error> {
    let filter = SeccompFilter::new(
        [(libc::SYS_landlock_create_ruleset, vec![])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        std::env::consts::ARCH.try_into()?,
    );
    let program: BpfProgram = filter?.try_into()?;
    apply_filter(&program)
}

/// A UDP socket on a free port of 127.0.0.1 that others may share.
pub fn reusable_udp() -> io::Result<OwnedFd> {
    let made = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&made, sockopt::ReuseAddr, &true)?;
    bind(made.as_raw_fd(), &SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)))?;
    Ok(made)
}

/// Makes a device, fifo or socket; `device` is major and minor.
pub fn make_node(path: &Path, kind: FileKind, mode: u32, device: (u32, u32)) -> io::Result<()> {
    let (mode, device) = (Mode::from_bits_truncate(mode), stat::device(device.0, device.1));
    Ok(mknod(path, kind.bits(), mode, device)?)
}
